"""The notebook runs from start to end, and is committed with its outputs."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip('nbformat')

NOTEBOOK = Path(__file__).parent.parent / 'docs' / 'notebooks' / 'your_images.ipynb'


def kinds(notebook):
    return [
        kind
        for cell in notebook.cells
        if cell.cell_type == 'code'
        for output in cell.outputs
        for kind in (output.get('data') or [output.output_type])
    ]


def test_the_notebook_is_committed_with_its_pictures():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    assert kinds(notebook).count('image/png') == 2 and 'error' not in kinds(notebook)
    assert not any(output.get('name') == 'stderr' for cell in notebook.cells for output in cell.get('outputs', []))
    assert NOTEBOOK.stat().st_size < 500_000


@pytest.mark.slow
def test_the_notebook_runs_from_nothing(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv('STEPS', '4')
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            cell.outputs = []
    NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(tmp_path)}}).execute()
    assert kinds(notebook).count('image/png') == 2
    text = ''.join(output.get('text', '') for cell in notebook.cells for output in cell.get('outputs', []))
    assert '200 images to train on, 500 to test on' in text
    assert all(f'{name}: ' in text for name in ('test_vit', 'test_vit.fractals1000_1k', 'test_resnet'))
    assert (tmp_path / 'my_model' / 'model.safetensors').is_file()
