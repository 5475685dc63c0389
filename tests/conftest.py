"""Fixtures that several folders of tests share (each module of support/ describes its own), and which tests go together.

Tests that need root or a program of the system are marked `system`: tests/run.sh leaves them out, .ci/run runs them.
"""

import gc
import os
import shutil

import pytest

from support.programs import shared_server, use_server

# The cores are busy with other tests: threads would spin while they wait for each other (18 s of CPU instead of 2 for
# 50 clusters of 300 documents).
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# --jobs -1 is one process: each of joblib's workers would load scikit-learn anew. Tests of workers have --jobs 2.
os.environ["LOKY_MAX_CPU_COUNT"] = "1"

FIXTURE_MODULES = [
    "support.browser",
    "support.shared_files",
    "support.services",
    "support.stores",
    "support.deployment",
    "support.snapshots",
    "support.provision_rehearsal",
    "support.provision_machine",
]

SYSTEM_FIXTURES = {
    "debian": (),  # says itself what it lacks
    "dry_run": ("go",),
    "real": ("go",),
    "minio_store": (),  # also takes MINIO_BINARY
}
# Servers and machines that take long to start: the tests that share them run in one process.
GROUPING_FIXTURES = ("first_steps", "services")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """For all processes of a test run (xdist), programs are forks of one."""
    node.workerinput["program_server"] = shared_server()


def pytest_configure(config):
    """The process that only distributes tests to others (xdist) starts them 3 s earlier without the libraries."""
    if hasattr(config, "workerinput"):
        use_server(config.workerinput["program_server"])
    if not config.getoption("numprocesses", None):  # this process runs tests itself
        gc.disable()  # until it has loaded everything, which takes a fifth longer with searches for garbage
        for module in FIXTURE_MODULES:
            config.pluginmanager.import_plugin(module)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        for fixture in SYSTEM_FIXTURES.keys() & set(item.fixturenames):
            item.add_marker(pytest.mark.system(*SYSTEM_FIXTURES[fixture]))
        programs = {program for mark in item.iter_markers("system") for program in mark.args}
        if missing := sorted(program for program in programs if not shutil.which(program)):
            item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))
        if group := group_of(item):
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=place)


def pytest_collection_finish(session):
    """Collections of garbage need not look at what the libraries have loaded, and are rare."""
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()


def place(item) -> tuple[bool, bool]:
    """The longest groups first, single tests last: or at the end one process would still be at work."""
    group = group_of(item)
    return group not in GROUPING_FIXTURES, group is None


def group_of(item) -> str | None:
    """The tests that run in one process, because they share what takes long to prepare."""
    for fixture in GROUPING_FIXTURES:
        if fixture in item.fixturenames:
            return fixture
    definitions = item._fixtureinfo.name2fixturedefs
    if any(definitions[name][-1].scope == "module" for name in item.fixturenames if name in definitions):
        return item.path.stem
    return None
