"""The tests: a package, so that they may share helpers (`from tests.helpers import …`)."""
