import pytest


@pytest.fixture(autouse=True)
def change_directory(tmp_path, monkeypatch):
    """Changes to a temporary folder, because MuJoCo may write MUJOCO_LOG.TXT."""
    monkeypatch.chdir(tmp_path)
