import pytest

from support.example_texts import read_column


@pytest.fixture(scope="session")
def english():
    return read_column("description")
