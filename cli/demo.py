"""`taidpt demo`: a web page that tags photographs."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import DEFAULT_MODEL, DeviceOption, ModelOption, load_tagger


def demo(
    model: ModelOption = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 serves other machines.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; the first free one by default.")] = None,
    device: DeviceOption = None,
) -> None:
    """Serve a web page that tags photographs, until Ctrl-C.

    Needs `pip install "taidpt[demo]"`. Works offline with the checkpoint that ships with the package.

    **Examples**

    - `taidpt demo`
    - `taidpt demo --model runs/pets --port 7860`
    """
    from modeling_taidpt.serving.demo import launch_demo

    launch_demo(load_tagger(model, device), server_name=host, server_port=port)


__all__ = ["demo"]
