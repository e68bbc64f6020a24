"""The page as a Hugging Face Space; `TAIDPT_MODEL` names another checkpoint than the one that ships."""

import os

from modeling_taidpt.serving.demo import launch_demo

if __name__ == "__main__":
    launch_demo(os.environ.get("TAIDPT_MODEL"), server_name="0.0.0.0", server_port=7860)
