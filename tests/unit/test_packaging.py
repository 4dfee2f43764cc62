"""What the packages read when they run is in the wheel: the patterns of ``package_data`` cover every file of theirs."""

from __future__ import annotations

import configparser
import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = {".pyc", ".nbi", ".nbc"}


def test_every_file_of_a_package_is_code_or_package_data() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    packages = {package.rstrip("*") for package in setup["options.packages.find"]["include"].split()}
    patterns = {
        package: [pattern.strip() for pattern in text.split(",")]
        for package, text in setup["options.package_data"].items()
    }
    assert packages == patterns.keys()
    missing, seen = [], set()
    for package, own in patterns.items():
        for path in (ROOT / package).rglob("*"):
            name = path.relative_to(ROOT / package).as_posix()
            if not path.is_file() or path.suffix in GENERATED or name.startswith("."):
                continue
            fitting = [pattern for pattern in own if fnmatch.fnmatchcase(name, pattern)]
            seen |= {(package, pattern) for pattern in fitting}
            if path.suffix == ".py":
                # A folder of code without __init__.py is no package to setuptools.
                folders = [path.parent, *path.parent.parents]
                inside = folders[: folders.index(ROOT)]
                missing += [str(path) for folder in inside if not (folder / "__init__.py").is_file()]
            elif not fitting:
                missing.append(str(path))
    assert missing == []
    assert seen == {(package, pattern) for package, own in patterns.items() for pattern in own}
