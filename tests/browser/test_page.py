"""The page of ``timm-fractal explore`` in a real browser. ``make test-browser`` runs this."""

import base64
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.explorer import explorer
from tests.test_explore import bomb, photo_file
from timm_fractal.explore import pictures
from timm_fractal.spec import parse_name

sync_api = pytest.importorskip('playwright.sync_api')
pytest.importorskip('gradio')

pytestmark = pytest.mark.browser

SOURCE = os.environ.get('TIMM_SOURCE', '')
SCREENSHOT = os.environ.get('EXPLORER_SCREENSHOT', '')
SMALL = 'fractal1/classes=40,points=3000,size=64'
SHEET = '#sheet img'
WRONG = '#sheet .wrong'
DESKTOP, PHONE = (1280, 800), (390, 844)

# For a slow machine with other work.
PATIENCE = 60_000
expect = sync_api.expect
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        path = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip('no Chromium: install one, or run playwright install chromium')
        # In a container there is no sandbox.
        browser = playwright.chromium.launch(executable_path=path, args=['--no-sandbox'], timeout=2 * PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def address() -> Iterator[str]:
    with explorer(SMALL) as address:
        yield address


def visit(browser: Any, address: str, size: tuple[int, int], wrong: list[str]) -> Any:
    """The page of a new visitor, complete; errors and requests to other machines go into `wrong`."""
    context = browser.new_context(viewport=dict(zip(('width', 'height'), size)))
    context.grant_permissions(['clipboard-read', 'clipboard-write'])
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    own = (address, 'data:', 'blob:')
    page.on('pageerror', lambda error: wrong.append(str(error)))
    page.on('request', lambda request: None if request.url.startswith(own) else wrong.append(request.url))
    page.goto(address)
    page.wait_for_selector(SHEET)
    page.wait_for_selector('#fractal1-delta')
    return page


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page of one visitor, who must see no error that is not text on it, and nothing of other machines."""
    wrong: list[str] = []
    page = visit(browser, address, DESKTOP, wrong)
    yield page
    page.context.close()
    assert wrong == []


def name(page: Any) -> Any:
    return page.locator('#name textarea')


def type_name(page: Any, text: str) -> None:
    name(page).fill(text)
    name(page).press('Enter')


def picture(page: Any, selector: str = SHEET) -> str:
    source: str = page.locator(selector).first.get_attribute('src')
    return source


def wait_for_another(page: Any, old: str, selector: str = SHEET) -> None:
    expect(page.locator(selector).first).not_to_have_attribute('src', old)


def first_tile(data_set: str) -> str:
    """The source of the first image that the sheet of a data set has."""
    return f'data:image/png;base64,{base64.b64encode(pictures.classes(data_set, "train", 40)[0]).decode()}'


def unfold(page: Any, label: str) -> None:
    page.locator('button.label-wrap', has_text=label).click()


def in_view(page: Any, selector: str) -> tuple[float, float]:
    """Top and bottom of an element that is completely in the window."""
    box = page.locator(selector).bounding_box()
    assert box['x'] >= 0 and box['x'] + box['width'] <= page.viewport_size['width']
    assert box['y'] >= 0 and box['y'] + box['height'] <= page.viewport_size['height']
    return box['y'], box['y'] + box['height']


@pytest.mark.parametrize('size, columns, width', [(DESKTOP, 8, 100), (PHONE, 4, 80)])
def test_the_picture_comes_first(browser: Any, address: str, size: tuple[int, int], columns: int, width: int) -> None:
    wrong: list[str] = []
    page = visit(browser, address, size, wrong)
    top, bottom = in_view(page, '#sheet')
    assert bottom - top > 0.4 * size[1]
    boxes = [page.locator(SHEET).nth(k).bounding_box() for k in range(columns + 1)]
    assert [box['y'] == boxes[0]['y'] for box in boxes] == [True] * columns + [False]
    assert boxes[0]['width'] >= width
    count = page.locator('#count input[type=range]')
    count.focus()
    count.press('ArrowLeft')
    expect(page.locator(SHEET)).to_have_count(32)
    in_view(page, '#sheet')
    if size == PHONE:
        # The last slider, far below: the picture changes in view, and does not cover it.
        unfold(page, 'All options')
        expect(page.locator('#fractal1-size')).to_be_visible()
        old = picture(page)
        slider = page.locator('#fractal1-size input[type=range]')
        slider.focus()
        slider.press('ArrowRight')
        wait_for_another(page, old)
        assert page.evaluate('scrollY') > 300
        _, bottom = in_view(page, '#sheet')
        assert in_view(page, '#fractal1-size')[0] >= bottom
        # Nothing shines through it.
        x, y = 40, bottom / 2
        assert page.evaluate('([x, y]) => document.elementFromPoint(x, y).closest("#sheet") != null', [x, y])
    for fold in ('Validation', 'Sweep', 'One class', 'Training', 'Published weights'):
        unfold(page, fold)
    expect(page.locator('#filters img')).to_be_visible()
    assert page.evaluate('document.documentElement.scrollWidth') <= size[0]
    page.context.close()
    assert wrong == []


@pytest.mark.parametrize(
    'label, expected',
    [
        ('The paper', 'fractal1'),
        ('For small budgets', 'fractal1/classes=100,delta=0.2,patch=fill'),
        ('100 fractals', 'fractal1/fractals=100'),
        ('VisualAtom', 'visualatom'),
        ('Noise', 'noise1'),
    ],
)
def test_presets(page: Any, label: str, expected: str) -> None:
    # Whatever the controls were set to.
    page.locator('#fractal1-delta input[type=number]').fill('0.3')
    expect(name(page)).to_have_value(re.compile(r'delta=0\.3'))
    page.get_by_role('button', name=label, exact=True).click()
    expect(page.locator('#sheet figcaption')).to_have_text(
        f'{expected}: the first 40 of {parse_name(expected).num_classes:,} classes'
    )
    expect(name(page)).to_have_value(expected)
    kind = expected.partition('/')[0]
    expect(page.locator('#type input')).to_have_value(kind)
    expect(page.locator(f'#{kind}-seed input')).to_be_visible()
    if kind == 'fractal1':
        delta = page.locator('#fractal1-delta input[type=number]')
        expect(delta).to_have_value(f'{parse_name(expected).delta}')


def test_the_copied_name_is_what_the_sheet_shows(page: Any) -> None:
    page.locator('#fractal1-seed input').fill('15')
    expected = SMALL + ',seed=15'
    expect(page.locator('#sheet figcaption')).to_contain_text(f'{expected}:')
    # What is not valid is neither shown nor copied.
    page.locator('#fractal1-delta input[type=number]').fill('1')
    expect(page.locator('#message')).to_contain_text('delta must be less than 1, got 1')
    page.locator('#name').get_by_label('Copy').click()
    copied = page.evaluate('navigator.clipboard.readText()')
    assert copied == expected
    assert picture(page) == first_tile(copied)


def test_a_name_fills_the_controls_and_changes_the_picture(page: Any) -> None:
    old = picture(page)
    type_name(page, SMALL + ',delta=0.25,patch=fill')
    expect(page.locator('#fractal1-delta input[type=number]')).to_have_value('0.25')
    expect(page.locator('#fractal1-classes input')).to_have_value('40')
    expect(page.locator('#fractal1-patch input[value=fill]')).to_be_checked()
    wait_for_another(page, old)
    type_name(page, 'noise1/size=64')
    expect(page.locator('#noise1-delta')).to_be_visible()
    expect(page.locator('#fractal1-delta')).to_have_count(0)


def test_controls_rewrite_the_name(page: Any) -> None:
    old = picture(page)
    # Key by key, as a person does: no answer to an earlier key may take a later one away.
    seed = page.locator('#fractal1-seed input')
    seed.press('Control+A')
    seed.press_sequentially('12345', delay=60)
    expect(name(page)).to_have_value(SMALL + ',seed=12345')
    expect(seed).to_have_value('12345')
    wait_for_another(page, old)
    unfold(page, 'All options')
    page.locator('#fractal1-patch').get_by_text('fill', exact=True).click()
    expect(name(page)).to_have_value(SMALL + ',patch=fill,seed=12345')
    # Two controls one right after the other.
    page.locator('#fractal1-delta input[type=number]').fill('0.3')
    page.locator('#fractal1-sigma input[type=number]').fill('4')
    expected = 'fractal1/classes=40,delta=0.3,sigma=4.0,points=3000,size=64,patch=fill,seed=12345'
    expect(name(page)).to_have_value(expected)
    slider = page.locator('#fractal1-delta input[type=range]')
    slider.focus()
    slider.press('ArrowRight')
    expect(name(page)).to_have_value(expected.replace('0.3', '0.31'))
    page.locator('#fractal1-loader').get_by_text('device', exact=True).click()
    expect(name(page)).to_have_value(re.compile('loader=device'))
    # More maps allow a larger sigma.
    page.locator('#fractal1-maps input[type=number]').fill('3')
    page.locator('#fractal1-maps input[type=number]').blur()
    expect(name(page)).to_have_value(re.compile('maps=3'))
    expect(page.locator('#fractal1-sigma input[type=range]')).to_have_attribute('max', '9')


def test_a_fine_value_survives_other_controls(page: Any) -> None:
    """A slider has steps, a name has none."""
    type_name(page, SMALL + ',delta=0.00025')
    expect(page.locator('#fractal1-delta input[type=number]')).to_have_value('0.00025')
    page.locator('#fractal1-seed input').fill('3')
    expect(name(page)).to_have_value('fractal1/classes=40,delta=0.00025,points=3000,size=64,seed=3')


def test_errors_are_seen(page: Any) -> None:
    message = page.locator('#message')
    unfold(page, 'All options')
    classes = page.locator('#fractal1-classes input')
    classes.fill('1')
    expect(message).to_contain_text('classes must be at least 2, got 1')
    classes.fill('20')
    expect(message).to_be_empty()
    type_name(page, 'fractal1/sigma=7')
    expect(message).to_contain_text('sigma must be less than 3 * maps = 6, got 7.0')
    type_name(page, 'fractl1')
    expect(message).to_contain_text("unknown data set 'fractl1'; did you mean 'fractal1'")
    type_name(page, SMALL)
    expect(message).to_be_empty()
    # What only rendering finds out.
    type_name(page, 'fractal1/classes=4,points=1')
    expect(page.locator(WRONG)).to_contain_text('shows no shape on this canvas')
    type_name(page, SMALL)
    expect(page.locator(WRONG)).to_have_count(0)


def test_of_quick_changes_the_last_counts(page: Any) -> None:
    """Each of them takes longer to render than the next takes to come."""
    for seed in range(5):
        type_name(page, f'ofdb/seed={77 + seed}')
    expect(name(page)).to_have_value('ofdb/seed=81')
    expected = first_tile('ofdb/seed=81')
    expect(page.locator(SHEET).first).to_have_attribute('src', expected)
    # No answer to an earlier name comes while something else is rendered, and nobody is told of an error.
    unfold(page, 'Sweep of an option')
    page.wait_for_selector('#sweep img')
    assert picture(page) == expected and name(page).input_value() == 'ofdb/seed=81'
    assert page.locator('.toast-body').count() == 0


def test_the_verdict_follows_the_name(page: Any) -> None:
    expect(page.locator('#verdict')).to_contain_text('The classes can be told apart')
    type_name(page, SMALL + ',delta=0.001')
    expect(page.locator('#verdict')).to_contain_text('A model may not learn these classes')


def test_folds(page: Any) -> None:
    unfold(page, 'Validation images')
    expect(page.locator('#validation img')).to_have_count(40)
    expect(page.locator('#validation figcaption')).to_have_text(f'{SMALL}: the first 40 of 40 classes, validation')
    assert picture(page, '#validation img') != picture(page)
    unfold(page, 'Sweep of an option')
    page.wait_for_selector('#sweep img')
    old = picture(page, '#sweep img')
    page.get_by_label('values').fill('0.1, 0.2')
    wait_for_another(page, old, '#sweep img')
    page.get_by_label('values').fill('0.1, x')
    expect(page.locator('#sweep')).to_contain_text("delta must be a number, got 'x'")
    unfold(page, 'One class')
    page.wait_for_selector('#one-class img')
    old = picture(page, '#one-class img')
    page.locator('#class-number input[type=number]').fill('3')
    wait_for_another(page, old, '#one-class img')
    expect(page.locator('#one-class img')).to_have_count(2)
    unfold(page, 'Training')
    expect(page.locator('#samples img')).to_have_count(8)
    old = picture(page, '#samples img')
    page.locator('#samples-seed input').fill('1')
    wait_for_another(page, old, '#samples img')
    expect(page.locator('#command')).to_contain_text(f'--dataset {SMALL}')
    # What is open follows the name.
    old = picture(page, '#samples img')
    type_name(page, SMALL + ',seed=4')
    wait_for_another(page, old, '#samples img')
    expect(page.locator('#command')).to_contain_text(',seed=4')


def test_published_weights(page: Any, tmp_path: Path) -> None:
    unfold(page, 'Published weights')
    page.wait_for_selector('#filters img')
    expect(page.locator('#card th').first).to_have_text('license')
    page.locator('#image input[type=file]').set_input_files(photo_file(tmp_path / 'green', 'green'))
    expect(page.locator('#nearest img')).to_have_count(5)


def test_uploads(page: Any, tmp_path: Path) -> None:
    page.get_by_role('button', name='One photograph', exact=True).click()
    expect(page.locator(WRONG)).to_contain_text('image1 needs an image: upload one in the box "Photograph"')
    type_name(page, 'image1/classes=4,size=64')
    expect(page.locator('#image1-delta')).to_be_visible()

    def upload(path: Path) -> None:
        if page.locator('#photo input[type=file]').count() == 0:
            page.locator('#photo').get_by_label('Clear').click()
        page.locator('#photo input[type=file]').set_input_files(path)

    (tmp_path / 'notes.txt').write_text('no image')
    for path, words in (
        (tmp_path / 'notes.txt', 'notes.txt is not an image that can be shown here'),
        (bomb(tmp_path / 'bomb.png', 60000, 50000), 'must have at most 25,000,000 pixels'),
    ):
        upload(path)
        expect(page.locator(WRONG)).to_contain_text(words)
        assert str(tmp_path) not in page.content()
    upload(photo_file(tmp_path / 'a', 'white'))
    page.wait_for_selector(SHEET)
    expect(page.locator(WRONG)).to_have_count(0)
    old = picture(page)
    unfold(page, 'All options')
    page.locator('#image1-warp').get_by_text('elastic', exact=True).click()
    wait_for_another(page, old)
    unfold(page, 'Training')
    expect(page.locator('#command')).to_contain_text('--data-dir photo.png')


def test_two_visitors(browser: Any, page: Any, address: str) -> None:
    type_name(page, SMALL + ',seed=8')
    expect(page.locator('#fractal1-seed input')).to_have_value('8')
    other = visit(browser, address, PHONE, [])
    assert name(other).input_value() == SMALL
    type_name(other, SMALL + ',seed=9')
    expect(other.locator('#fractal1-seed input')).to_have_value('9')
    assert name(page).input_value() == SMALL + ',seed=8'
    other.context.close()


@pytest.mark.timm_source
@pytest.mark.skipif(not SOURCE, reason='TIMM_SOURCE is not set to a checkout of timm: its train.py is not run')
def test_the_copied_line_runs(page: Any, tmp_path: Path) -> None:
    type_name(page, SMALL.replace('40', '8'))
    unfold(page, 'Training')
    model = page.locator('#model input')
    model.fill('test_vit')
    model.press('Enter')
    expect(page.locator('#command')).to_contain_text('--model test_vit')
    expect(page.locator('#command')).to_contain_text('classes=8,')
    line = '\n'.join(page.locator('#command .cm-line').all_inner_texts())
    words = [sys.executable, f'{SOURCE}/train.py', *shlex.split(line.replace('\\\n', ''))[2:]]
    words += shlex.split('--device cpu --epochs 1 --warmup-epochs 0 --batch-size 8 --workers 0 --output out')
    environment = os.environ | {'OMP_NUM_THREADS': '1'}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'Train: 0 [   0/1' in done.stderr


@pytest.mark.skipif(not SCREENSHOT, reason='EXPLORER_SCREENSHOT is not set to the file of docs/explorer.md')
def test_screenshot(page: Any) -> None:
    page.get_by_role('button', name='For small budgets', exact=True).click()
    expect(page.locator('#sheet figcaption')).to_contain_text('fractal1/classes=100')
    expect(page.locator('#verdict')).to_contain_text('+')
    page.screenshot(path=SCREENSHOT)
    Image.open(SCREENSHOT).convert('RGB').quantize(40).save(SCREENSHOT, optimize=True)
