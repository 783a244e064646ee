import platform
import subprocess

import pytest
import torch

from vqnmt.provenance import current_commit, describe_hardware


def test_hardware_has_threads_versions_and_processor():
    hardware = describe_hardware()
    assert hardware["threads"] == torch.get_num_threads()
    assert hardware["torch"] == torch.__version__
    assert hardware["python"] == platform.python_version()
    assert hardware["processor"]
    assert "gpu" not in hardware


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_hardware_names_the_gpu():
    assert describe_hardware("cuda")["gpu"] == torch.cuda.get_device_name()


def test_commit(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)  # set when a hook runs the tests
    code = tmp_path / "package" / "code.py"
    code.parent.mkdir()
    code.write_text("1\n")
    assert current_commit(code) == "unknown"
    git("init", "--quiet")
    record = tmp_path / "results" / "run.json"
    record.parent.mkdir()
    record.write_text("[]")
    assert current_commit(code) == "unknown"  # inside a repository that does not track it
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    head = git("rev-parse", "HEAD")
    assert len(head) >= 40
    assert current_commit(code) == head
    (tmp_path / "untracked.txt").write_text("not code")
    record.write_text("[1]")
    assert current_commit(code) == head
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert current_commit(code) == head
    code.write_text("2\n")
    assert current_commit(code) == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert current_commit(code) == "unknown"
