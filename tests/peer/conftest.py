"""The marks of transformers' own tests: they mean nothing here, and unknown ones are errors."""

MARKS = ("accelerate_tests", "flash_attn_test", "torch_compile_test", "flash_attn_3_test", "flash_attn_4_test")
MARKS += ("generate", "torch_export_test", "is_flaky", "is_training_test", "all_flash_attn_test")


def pytest_configure(config):
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: of transformers' own tests")
