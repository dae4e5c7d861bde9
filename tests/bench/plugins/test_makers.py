"""Who installed a module, held against what the standard library says of all of them."""

from importlib.metadata import packages_distributions

from bench.plugins.makers import makers_of


def test_it_is_what_the_standard_library_says():
    everything = packages_distributions()
    assert makers_of(set(everything)) == {name: list(made) for name, made in everything.items()}
    assert makers_of({"torch", "no_such_module"}) == {"torch": everything["torch"]}


def test_every_way_of_listing_files(tmp_path, monkeypatch):
    for name, file, text in (
        ("declared", "top_level.txt", "alpha\nbeta\n"),
        ("recorded", "RECORD", '"gamma/a,b.py",sha256=x,12\nbeta.py,,\nbin/tool,,\n'),
        ("sources", "SOURCES.txt", "delta/__init__.py\nsetup.cfg\n"),
    ):
        folder = tmp_path / f"{name}-1.{'egg-info' if name == 'sources' else 'dist-info'}"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / file).write_text(text)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    found = makers_of({"alpha", "beta", "gamma", "delta", "setup"})
    assert {name: sorted(made) for name, made in found.items()} == {
        "alpha": ["declared"],
        "beta": ["declared", "recorded"],
        "gamma": ["recorded"],
        "delta": ["sources"],
    }
