"""Fixtures that several folders of tests share; each module of support/ describes its own."""

pytest_plugins = [
    "support.services",
    "support.stores",
    "support.deployment",
    "support.provision_rehearsal",
    "support.provision_machine",
]
