"""Tags as XMP sidecars, which photo tools read: `dc:subject` and `lr:hierarchicalSubject`.

A sidecar that is there keeps all that it holds: labels are added to its keywords. What was added is noted in a
property of our own, so that a later run takes away labels that it finds no more, and no keyword of anybody else.
Photographs are never written.
Source: XMP Specification Part 1 (ISO 16684-1) for the RDF; Adobe's Lightroom schema for hierarchical keywords.
"""

from __future__ import annotations

import re
import stat
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser
from transformers.utils import logging

from ..atomic import remove_leftovers, staged_file
from ..captions.hierarchy import LabelHierarchy
from ..data.stored_images import is_regular
from ..languages import ENGLISH
from .formats import read_results
from .summary import LEAST_SCORE, found_labels

logger = logging.get_logger(__name__)

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": RDF,
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "taidpt": "urn:taidpt:xmp:1.0:",
}
SUBJECT = f"{{{NAMESPACES['dc']}}}subject"
HIERARCHICAL_SUBJECT = f"{{{NAMESPACES['lr']}}}hierarchicalSubject"
ADDED = {  # which values of a property are ours
    SUBJECT: f"{{{NAMESPACES['taidpt']}}}addedSubject",
    HIERARCHICAL_SUBJECT: f"{{{NAMESPACES['taidpt']}}}addedHierarchicalSubject",
}
EMPTY = (
    f'<x:xmpmeta xmlns:x="{NAMESPACES["x"]}"><rdf:RDF xmlns:rdf="{RDF}">'
    '<rdf:Description rdf:about=""/></rdf:RDF></x:xmpmeta>'
)
PACKET = ('<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n', '\n<?xpacket end="w"?>\n')
MOST_BYTES = 64 * 1024**2  # of a sidecar that is there; real ones have some kilobytes
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass
class SidecarReport:
    """What became of the sidecars.

    Attributes:
        written (`int`): sidecars that were made or got further keywords.
        unchanged (`int`): those that had all keywords already, and images without labels.
        no_file (`int`): images that are not files of their own, as in archives, or not there any more.
        errors (`list[str]`): one sentence for each sidecar that could not be read or written.
    """

    written: int = 0
    unchanged: int = 0
    no_file: int = 0
    errors: list[str] = field(default_factory=list)


def write_sidecars(
    results: str | Path,
    *,
    threshold: float | Mapping[str, float] = LEAST_SCORE,
    parents: Mapping[str, str] | None = None,
    replace_suffix: bool = False,
    language: str = ENGLISH,
) -> SidecarReport:
    """Writes or extends the sidecar of each image in the results of [`tag_images`]; labels of earlier results go.

    Args:
        results (`str` or `Path`): folder or file that [`tag_images`] wrote.
        threshold (`float` or `Mapping[str, float]`, *optional*, defaults to 0.5): least score of a label that becomes
            a keyword, one for all or one for each; 0 for results that hold only labels that were found.
        parents (`Mapping[str, str]`, *optional*): what labels are kinds of; see [`LabelHierarchy`].
        replace_suffix (`bool`, *optional*, defaults to `False`): `photo.xmp`, as Adobe's tools name sidecars, instead
            of `photo.jpg.xmp`, as darktable and digiKam do.
        language (`str`, *optional*, defaults to `"en"`): code of the labels' language; see [`LabelHierarchy`].

    Returns:
        [`SidecarReport`].

    Raises:
        FileNotFoundError: there are no results.
        ValueError: a file of the results cannot be read.
    """
    report, hierarchy, folder = SidecarReport(), LabelHierarchy(parents, language), None
    for row in read_results(results):
        labels = found_labels(row, threshold)
        if row.error is not None:
            continue
        image = Path(row.path)
        if not is_regular(image):
            report.no_file += 1
            continue
        if image.parent != folder:
            folder = image.parent
            remove_leftovers(folder)
        sidecar = image.with_suffix(".xmp") if replace_suffix else image.with_name(f"{image.name}.xmp")
        try:
            paths = [hierarchy.path(label) for label in labels]
            changed = (bool(labels) or sidecar.is_file()) and add_keywords(sidecar, labels, paths)
        except (ValueError, OSError) as error:
            sentence = str(error) if isinstance(error, ValueError) else f"{error.strerror}: {str(sidecar)!r}."
            logger.warning(sentence)
            report.errors.append(sentence)
            continue
        report.written += changed
        report.unchanged += not changed
    return report


def add_keywords(path: str | Path, keywords: Sequence[str], paths: Sequence[Sequence[str]] = ()) -> bool:
    """Adds keywords to a sidecar, or makes it; whole or not at all.

    Those that an earlier call added and that are not among them are taken away.

    Args:
        path (`str` or `Path`): the sidecar, ending in .xmp.
        keywords (`Sequence[str]`): for `dc:subject`.
        paths (`Sequence[Sequence[str]]`, *optional*): for `lr:hierarchicalSubject`, each from the top down.

    Returns:
        `bool`: whether the file was written; `False` where it had them all.

    Raises:
        ValueError: the file is there and is not XMP, or no regular file; it stays as it is.
    """
    path = Path(path)
    if path.is_symlink():  # the file behind a link is replaced, not the link
        if not path.exists():
            raise ValueError(f"The sidecar {str(path)!r} is a link to nothing and stays as it is.")
        path = path.resolve()
    root = _read(path)
    rdf = root if root.tag == f"{{{RDF}}}RDF" else root.find(f"{{{RDF}}}RDF")
    if rdf is None:
        rdf = ET.SubElement(root, f"{{{RDF}}}RDF")
    descriptions = rdf.findall(f"{{{RDF}}}Description") or [
        ET.SubElement(rdf, f"{{{RDF}}}Description", {f"{{{RDF}}}about": ""})
    ]
    hierarchical = ["|".join(_clean(part).replace("|", "/") for part in parts) for parts in paths]
    changed = _set_ours(descriptions, SUBJECT, [_clean(word) for word in keywords])
    # where nobody says now where a keyword belongs, what was said before stays
    pathless = {_clean(word).replace("|", "/") for word in keywords} - {one.split("|")[-1] for one in hierarchical}
    kept = [one for one in _values(descriptions, ADDED[HIERARCHICAL_SUBJECT]) if one.split("|")[-1] in pathless]
    changed = _set_ours(descriptions, HIERARCHICAL_SUBJECT, [*hierarchical, *kept]) or changed
    if changed:
        try:
            text = ET.tostring(root, encoding="unicode")
        except RecursionError as error:
            raise ValueError(f"The sidecar {str(path)!r} is nested too deeply and stays as it is.") from error
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
        with staged_file(path) as staged:
            staged.write_text(text.join(PACKET), encoding="utf-8")
        if mode is not None:
            path.chmod(mode)
    return changed


def _clean(text: str) -> str:
    """A keyword as XML can hold it, on one line."""
    return " ".join(_NOT_XML.sub("", text).split())


class _Builder(ET.TreeBuilder):
    """Keeps comments and instructions, and the prefixes of namespaces that the file uses."""

    def __init__(self) -> None:
        super().__init__(insert_comments=True, insert_pis=True)

    def start_ns(self, prefix: str, uri: str) -> None:
        """Called at the declaration of a namespace."""
        # "ns1" is how ElementTree itself names what has no prefix, and it refuses such names here
        if prefix and uri not in NAMESPACES.values() and not re.fullmatch(r"ns\d+|xml", prefix):
            ET.register_namespace(prefix, uri)


def _read(path: Path) -> ET.Element:
    for prefix, uri in NAMESPACES.items():
        ET.register_namespace(prefix, uri)
    if not path.exists():
        return ET.fromstring(EMPTY)
    if not is_regular(path):  # a pipe would be waited for
        raise ValueError(f"The sidecar {str(path)!r} is not a regular file and stays as it is.")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"The sidecar {str(path)!r} is larger than {MOST_BYTES // 1024**2} MB: it is not XMP.")
    parser = DefusedXMLParser(target=_Builder(), forbid_dtd=True)
    try:
        parser.feed(path.read_bytes())
        root = parser.close()
    except (ET.ParseError, DefusedXmlException, LookupError, ValueError) as error:
        reason = "it declares a document type" if isinstance(error, DefusedXmlException) else str(error)
        raise ValueError(f"The sidecar {str(path)!r} is not XMP and stays as it is: {reason}.") from error
    if root.tag not in (f"{{{NAMESPACES['x']}}}xmpmeta", f"{{{NAMESPACES['x']}}}xapmeta", f"{{{RDF}}}RDF"):
        raise ValueError(f"The sidecar {str(path)!r} is not XMP and stays as it is: it holds <{root.tag[:80]}>.")
    return root


def _set_ours(descriptions: list[ET.Element], name: str, values: Sequence[str]) -> bool:
    """Makes these values ours: adds those that are missing, takes away ours that are none of them; whether it did."""
    stale = [value for value in _values(descriptions, ADDED[name]) if value not in values]
    for property_name in (name, ADDED[name]) if stale else ():
        _remove(descriptions, property_name, stale)
    new = _add(descriptions, name, values)
    _add(descriptions, ADDED[name], new)
    return bool(new or stale)


def _values(descriptions: list[ET.Element], name: str) -> list[str]:
    """The values of a property that is an array."""
    found = [element for one in descriptions for element in one.findall(name)]
    return [item.text or "" for element in found for item in element.iter(f"{{{RDF}}}li")]


def _remove(descriptions: list[ET.Element], name: str, values: Sequence[str]) -> None:
    """Takes values out of a property, and the property with its last one."""
    for one in descriptions:
        for element in one.findall(name):
            for array in element:
                for item in [item for item in array.findall(f"{{{RDF}}}li") if (item.text or "") in values]:
                    array.remove(item)
            if not _values([one], name):
                one.remove(element)


def _add(descriptions: list[ET.Element], name: str, values: Iterable[str]) -> list[str]:
    """Adds values to a property of one of the descriptions of a file; returns those that are new."""
    home = next((one for one in descriptions if one.find(name) is not None or name in one.attrib), descriptions[0])
    element = home.find(name)
    present = [] if element is None else [item.text or "" for item in element.iter(f"{{{RDF}}}li")]
    loose = [home.attrib[name]] if name in home.attrib else []  # a single value may be an attribute, or bare text
    if element is not None and not len(element) and (element.text or "").strip():
        loose.append((element.text or "").strip())
    new = [value for value in dict.fromkeys(values) if value and value not in present + loose]
    if not new:
        return []
    element = ET.SubElement(home, name) if element is None else element
    array = next((child for child in element if str(child.tag).startswith(f"{{{RDF}}}")), None)
    if array is None:
        element.text = None
        array = ET.SubElement(element, f"{{{RDF}}}Bag")
    home.attrib.pop(name, None)
    for value in [*loose, *new]:
        ET.SubElement(array, f"{{{RDF}}}li").text = value
    return new


__all__ = ["SidecarReport", "add_keywords", "write_sidecars"]
