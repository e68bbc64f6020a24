// Tags photographs in the browser: the graph runs in transformers.js, and nothing leaves the machine.
// The graph gives probabilities, one sigmoid for each label: the library's image-classification pipeline would put a
// softmax over them. Pixels are resized here as Pillow does it, for a canvas resizes otherwise, and scores would differ.
const MOST_LABELS = 10;  // and all that reach their threshold
const MOST_CHARACTERS = 255;  // of a label or file name
const at = id => document.getElementById(id);
const meta = JSON.parse(at("meta").textContent);
const here = new URL("./", location.href);

async function load() {
  const { AutoModel, Tensor, env } = await import(new URL(meta.library, here).href);
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = here.href;
  env.useBrowserCache = false;  // a new export has the same address
  env.useWasmCache = false;
  if (meta.wasm) env.backends.onnx.wasm.wasmPaths = { mjs: new URL(meta.wasm.mjs, here).href, wasm: new URL(meta.wasm.wasm, here).href };
  env.backends.onnx.wasm.numThreads = globalThis.crossOriginIsolated ? undefined : 1;
  const model = await AutoModel.from_pretrained(".", { dtype: "fp32", device: "wasm", local_files_only: true });
  const settings = await (await fetch("preprocessor_config.json")).json();
  const table = await (await fetch("labels.json")).json();
  return { model, Tensor, settings, labels: table.labels, thresholds: table.thresholds ?? 0.5 };
}

// ---------------------------------------------------------------- pixels, as Pillow and transformers make them

const filters = {
  2: [1, x => (x < 1 ? 1 - x : 0)],  // bilinear
  3: [2, x => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0)],  // bicubic, a = -0.5
};

function weights(before, after, resample) {
  const [reach, filter] = filters[resample], scale = before / after, stretch = Math.max(scale, 1), support = reach * stretch;
  return Array.from({ length: after }, (_, index) => {
    const center = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5)), last = Math.min(before, Math.trunc(center + support + 0.5));
    const values = Float64Array.from({ length: last - first }, (_, step) => filter(Math.abs((step + first - center + 0.5) / stretch)));
    const sum = values.reduce((a, b) => a + b, 0);
    return [first, values.map(value => value / sum)];
  });
}

// (rows, columns, channels) of bytes to another number of columns; `turned` reads and writes rows as columns
function resizeAxis(source, rows, columns, after, resample, turned) {
  const channels = 3, target = new Uint8ClampedArray(rows * after * channels);
  const from = turned ? [channels, rows * channels] : [columns * channels, channels];  // steps of a row and a column
  const to = turned ? [channels, rows * channels] : [after * channels, channels];
  weights(columns, after, resample).forEach(([first, values], column) => {
    for (let row = 0; row < rows; row++) {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0, offset = row * from[0] + first * from[1] + channel;
        for (let step = 0; step < values.length; step++, offset += from[1]) sum += values[step] * source[offset];
        target[row * to[0] + column * to[1] + channel] = Math.floor(sum + 0.5);  // clamped to a byte, as between Pillow's passes
      }
    }
  });
  return target;
}

function sizes(width, height, settings) {
  if (settings.do_resize === false) return [width, height];
  const edge = settings.size.shortest_edge;
  if (!edge) return [settings.size.width, settings.size.height];
  const long = Math.trunc(edge * Math.max(width, height) / Math.min(width, height));
  return width <= height ? [edge, long] : [long, edge];
}

// RGB bytes of what the model sees
function prepare(bitmap, settings) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";  // under transparent images
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let pixels = new Uint8ClampedArray(rgba.length / 4 * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) { pixels[to++] = rgba[from]; pixels[to++] = rgba[from + 1]; pixels[to++] = rgba[from + 2]; }
  const [width, height] = sizes(bitmap.width, bitmap.height, settings);
  if (width !== bitmap.width) pixels = resizeAxis(pixels, bitmap.height, bitmap.width, width, settings.resample, false);
  if (height !== bitmap.height) pixels = resizeAxis(pixels, width, bitmap.height, height, settings.resample, true);
  if (!settings.do_center_crop) return { pixels, width, height };
  const crop = settings.crop_size, cut = new Uint8ClampedArray(crop.width * crop.height * 3);
  const left = Math.floor((width - crop.width) / 2), top = Math.floor((height - crop.height) / 2);
  for (let row = 0; row < crop.height; row++) {
    for (let column = 0; column < crop.width; column++) {
      if (row + top < 0 || row + top >= height || column + left < 0 || column + left >= width) continue;
      const from = ((row + top) * width + column + left) * 3, to = (row * crop.width + column) * 3;
      for (let channel = 0; channel < 3; channel++) cut[to + channel] = pixels[from + channel];
    }
  }
  return { pixels: cut, width: crop.width, height: crop.height };
}

function tensorOf({ pixels, width, height }, { Tensor, settings }) {
  const area = width * height, values = new Float32Array(3 * area);  // (3, height, width)
  const factor = settings.do_rescale === false ? 1 : settings.rescale_factor;
  for (let channel = 0; channel < 3; channel++) {
    const [mean, std] = settings.do_normalize === false ? [0, 1] : [settings.image_mean[channel], settings.image_std[channel]];
    for (let offset = 0; offset < area; offset++) values[channel * area + offset] = (pixels[offset * 3 + channel] * factor - mean) / std;
  }
  return new Tensor("float32", values, [1, 3, height, width]);
}

async function tag(file, tagger) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  const seen = prepare(bitmap, tagger.settings);
  bitmap.close();
  const { probabilities, heatmaps: map } = await tagger.model({ pixel_values: tensorOf(seen, tagger) });
  const results = tagger.labels.map((label, index) => {
    const threshold = Array.isArray(tagger.thresholds) ? tagger.thresholds[index] : tagger.thresholds;
    return { label, index, score: probabilities.data[index], found: probabilities.data[index] >= threshold };
  });
  return { seen, map, results: results.sort((a, b) => b.score - a.score || a.index - b.index) };
}

// ---------------------------------------------------------------- page

function element(name, options = {}, ...children) {
  const made = Object.assign(document.createElement(name), options);
  made.append(...children);
  return made;
}

// Labels and file names are anybody's: signs that are not seen or turn the direction of what follows become spaces.
function shown(text) {
  const plain = text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, sign => ("\u200c\u200d".includes(sign) ? sign : " "));
  return plain.length > MOST_CHARACTERS ? `${plain.slice(0, MOST_CHARACTERS - 1)}…` : plain;
}

function draw(canvas, { pixels, width, height }, map, label) {
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let offset = 0; offset < width * height; offset++) {
    for (let channel = 0; channel < 3; channel++) image.data[offset * 4 + channel] = pixels[offset * 3 + channel];
    image.data[offset * 4 + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  const [, , rows, columns] = map.dims, cells = map.data.subarray(label * rows * columns, (label + 1) * rows * columns);
  const least = Math.min(...cells), range = Math.max(...cells) - least || 1;
  const small = new OffscreenCanvas(columns, rows), heat = new ImageData(columns, rows);
  cells.forEach((cell, offset) => heat.data.set([255, 30, 110, 190 * ((cell - least) / range) ** 2], offset * 4));
  small.getContext("2d").putImageData(heat, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, width, height);
}

function show(article, file, { seen, map, results }) {
  const canvas = element("canvas", { width: seen.width, height: seen.height });
  canvas.setAttribute("role", "img");
  const found = results.filter(result => result.found).length, list = element("ul");
  const choose = (result, button) => {
    list.querySelectorAll("button").forEach(other => other.setAttribute("aria-pressed", String(other === button)));
    draw(canvas, seen, map, result.index);
    canvas.setAttribute("aria-label", `${shown(file.name)}, with the places of ${shown(result.label)}`);
  };
  for (const result of results.filter((result, rank) => result.found || rank < MOST_LABELS)) {
    const bar = element("i");
    bar.style.width = `${100 * result.score}%`;
    const button = element("button", { type: "button" }, bar, element("span", { textContent: shown(result.label) }), element("span", { textContent: result.score.toFixed(3) }));
    button.onclick = () => choose(result, button);
    list.append(element("li", { className: result.found ? "found" : "" }, button));
  }
  const note = found ? `${found} ${found === 1 ? "label reaches its" : "labels reach their"} threshold.` : "No label reaches its threshold.";
  article.append(element("div", {}, canvas), element("div", {}, element("p", { className: "note", textContent: `${note} Choose a label to see where it is.` }), list));
  list.querySelector("button").click();
}

let queue = Promise.resolve();
function take(files, tagger) {
  for (const file of files) {
    const article = element("article", {}, element("h2", { textContent: shown(file.name) }));
    at("results").append(article);
    queue = queue.then(async () => {
      at("status").textContent = `Tagging ${shown(file.name)}…`;
      try {
        show(article, file, await tag(file, tagger));
      } catch (error) {
        article.append(element("p", { className: "error", textContent: `This file cannot be read as an image: ${error.message}` }));
      }
      at("status").textContent = `Ready: ${tagger.labels.length} labels.`;
    });
  }
  return queue;
}

try {
  const tagger = await load();
  globalThis.tagPhotograph = async file => (await tag(file, tagger)).results;  // for scripts and tests
  at("files").disabled = false;
  at("files").onchange = () => { take(at("files").files, tagger); };
  const drop = at("drop");
  for (const name of ["dragover", "dragleave", "drop"]) drop.addEventListener(name, event => { event.preventDefault(); drop.classList.toggle("over", name === "dragover"); });
  drop.addEventListener("drop", event => { take(event.dataTransfer.files, tagger); });
  at("status").textContent = `Ready: ${tagger.labels.length} labels.`;
} catch (error) {
  const local = location.protocol === "file:" ? " Pages with a model must be served: python -m http.server." : "";
  at("status").textContent = `The model could not be loaded: ${error.message}${local}`;
}
