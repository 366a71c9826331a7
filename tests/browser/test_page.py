"""The page of ``timm-fractal explore`` in a real browser. ``make test-browser`` runs this."""

import base64
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.explorer import explorer
from tests.test_explore import bomb, photo_file
from timm_fractal.explore import pictures

sync_api = pytest.importorskip('playwright.sync_api')
gradio = pytest.importorskip('gradio')

pytestmark = pytest.mark.browser

SOURCE = os.environ.get('TIMM_SOURCE', '')
SMALL = 'fractal1/classes=8,points=3000,size=64'
SHEET = '#sheet-train img'
PROBLEM = '[id^=problem-]:visible'


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        path = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip('no Chromium: install one, or run playwright install chromium')
        # In a container there is no sandbox.
        browser = playwright.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def address() -> Iterator[str]:
    with explorer(SMALL) as address:
        yield address


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page of one visitor, who must see no error that is not text on it, and nothing of other machines."""
    context = browser.new_context(viewport={'width': 1400, 'height': 1000})
    page = context.new_page()
    wrong: list[str] = []
    page.on('pageerror', lambda error: wrong.append(str(error)))
    if int(gradio.__version__.partition('.')[0]) >= 6:
        # Gradio 5 has its fonts and a script from elsewhere.
        own = (address, 'data:', 'blob:')
        page.on('request', lambda request: None if request.url.startswith(own) else wrong.append(request.url))
    page.goto(address)
    page.wait_for_selector(SHEET)
    yield page
    context.close()
    assert wrong == []


def name(page: Any) -> Any:
    return page.get_by_label('Data set')


def type_name(page: Any, text: str) -> None:
    name(page).fill(text)
    name(page).press('Enter')


def picture(page: Any, selector: str = SHEET) -> str:
    source: str = page.locator(selector).first.get_attribute('src')
    return source


def wait_for_another(page: Any, old: str, selector: str = SHEET) -> None:
    page.wait_for_function(
        '([selector, old]) => { const image = document.querySelector(selector); return image && image.src != old }',
        arg=[selector, old],
    )


def open_tab(page: Any, label: str) -> None:
    page.get_by_role('tab', name=label, exact=True).click()


def test_a_name_fills_the_controls_and_changes_the_picture(page: Any) -> None:
    old = picture(page)
    type_name(page, SMALL + ',delta=0.25,patch=fill')
    expect = sync_api.expect
    expect(page.locator('#fractal1-delta input[type=number]')).to_have_value('0.25')
    expect(page.locator('#fractal1-classes input')).to_have_value('8')
    expect(page.locator('#fractal1-patch input[value=fill]')).to_be_checked()
    wait_for_another(page, old)
    type_name(page, 'noise1/size=64')
    expect(page.locator('#options-noise1')).to_be_visible()
    expect(page.locator('#options-fractal1')).to_be_hidden()


def test_controls_rewrite_the_name(page: Any) -> None:
    expect = sync_api.expect
    old = picture(page)
    # Key by key, as a person does: no answer to an earlier key may take a later one away.
    seed = page.locator('#fractal1-seed input')
    seed.press('Control+A')
    seed.press_sequentially('12345', delay=60)
    expect(name(page)).to_have_value('fractal1/classes=8,points=3000,size=64,seed=12345')
    expect(seed).to_have_value('12345')
    wait_for_another(page, old)
    page.locator('#fractal1-patch').get_by_text('fill', exact=True).click()
    expect(name(page)).to_have_value('fractal1/classes=8,points=3000,size=64,patch=fill,seed=12345')
    # Two controls one right after the other.
    page.locator('#fractal1-delta input[type=number]').fill('0.3')
    page.locator('#fractal1-sigma input').fill('4')
    expected = 'fractal1/classes=8,delta=0.3,sigma=4.0,points=3000,size=64,patch=fill,seed=12345'
    expect(name(page)).to_have_value(expected)
    expect(page.locator('#fractal1-delta input[type=number]')).to_have_value('0.3')
    slider = page.locator('#fractal1-delta input[type=range]')
    slider.focus()
    slider.press('ArrowRight')
    expect(name(page)).to_have_value(expected.replace('0.3', '0.301'))
    page.locator('#fractal1-loader').get_by_text('device', exact=True).click()
    expect(name(page)).to_have_value(re.compile('loader=device'))


def test_a_fine_value_survives_other_controls(page: Any) -> None:
    """A slider has steps, a name has none."""
    type_name(page, SMALL + ',delta=0.00025')
    expect = sync_api.expect
    expect(page.locator('#fractal1-classes input')).to_have_value('8')
    page.wait_for_timeout(500)
    page.locator('#fractal1-seed input').fill('3')
    expect(name(page)).to_have_value('fractal1/classes=8,delta=0.00025,points=3000,size=64,seed=3')


def test_errors_stand_beside_the_controls(page: Any) -> None:
    expect = sync_api.expect
    classes = page.locator('#fractal1-classes')
    classes.locator('input').fill('1')
    expect(classes).to_contain_text('classes must be at least 2, got 1')
    classes.locator('input').fill('20')
    expect(classes).not_to_contain_text('must be')
    expect(classes).to_contain_text('number of perturbed fractals')
    # A slider keeps what it shows when the text beside it changes.
    delta = page.locator('#fractal1-delta')
    delta.locator('input[type=number]').fill('1')
    expect(delta).to_contain_text('delta must be less than 1')
    expect(delta.locator('input[type=number]')).to_have_value('1')
    type_name(page, 'fractal1/sigma=7')
    expect(page.locator('#fractal1-sigma')).to_contain_text('sigma must be less than 3 * maps = 6, got 7.0')
    expect(delta).not_to_contain_text('must be')
    type_name(page, 'fractl1')
    expect(page.locator('#message')).to_contain_text("unknown data set 'fractl1'; did you mean 'fractal1'")
    type_name(page, SMALL)
    expect(page.locator('#message')).to_be_hidden()
    # What only rendering finds out.
    type_name(page, 'fractal1/classes=4,points=1')
    expect(page.locator(PROBLEM)).to_contain_text('shows no shape on this canvas')
    type_name(page, SMALL)
    expect(page.locator(PROBLEM)).to_have_count(0)


def test_of_quick_changes_the_last_counts(page: Any) -> None:
    """Each of them takes longer to render than the next takes to come."""
    for seed in range(5):
        type_name(page, f'ofdb/seed={77 + seed}')
        time.sleep(0.15)
    sync_api.expect(name(page)).to_have_value('ofdb/seed=81')
    expected = base64.b64encode(pictures.contact('ofdb/seed=81', 'train')).decode()
    wait_until = '(expected) => document.querySelector("#sheet-train img").src.endsWith(expected)'
    page.wait_for_function(wait_until, arg=expected)
    # No answer to an earlier name comes later, and nobody is told of an error.
    time.sleep(1)
    assert picture(page).endswith(expected) and name(page).input_value() == 'ofdb/seed=81'
    assert page.locator('.toast-body').count() == 0


def test_the_verdict_follows_the_name(page: Any) -> None:
    expect = sync_api.expect
    expect(page.locator('#verdict')).to_contain_text('They can be told apart')
    type_name(page, SMALL + ',delta=0.001')
    expect(page.locator('#verdict')).to_contain_text('A model may not learn them')


def test_which_classes_an_image_resembles(page: Any, tmp_path: Path) -> None:
    expect = sync_api.expect
    open_tab(page, 'Weights')
    page.wait_for_selector('#filters img')
    page.locator('#image input[type=file]').set_input_files(photo_file(tmp_path / 'green', 'green'))
    expect(page.locator('#nearest img')).to_have_count(5)


def test_other_tabs(page: Any) -> None:
    expect = sync_api.expect
    open_tab(page, 'Sweep')
    page.wait_for_selector('#sweep img')
    old = picture(page, '#sweep img')
    page.get_by_label('Values').fill('0.1, 0.2')
    wait_for_another(page, old, '#sweep img')
    page.get_by_label('Values').fill('0.1, x')
    expect(page.locator(PROBLEM)).to_contain_text("delta must be a number, got 'x'")
    open_tab(page, 'One class')
    page.wait_for_selector('#large img')
    old = picture(page, '#large img')
    page.locator('#class-number input[type=number]').fill('3')
    wait_for_another(page, old, '#large img')
    expect(page.locator('#instances img')).to_have_count(1)
    open_tab(page, 'Training samples')
    expect(page.locator('#samples img')).to_have_count(8)
    old = picture(page, '#samples img')
    page.locator('#samples-seed input').fill('1')
    wait_for_another(page, old, '#samples img')
    open_tab(page, 'Weights')
    page.wait_for_selector('#filters img')
    expect(page.locator('#card')).to_contain_text('samples')
    # What a tab shows is that of the present name, also if the name has changed meanwhile.
    open_tab(page, 'Classes')
    old = picture(page)
    type_name(page, SMALL + ',seed=4')
    wait_for_another(page, old)


def test_uploads(page: Any, tmp_path: Path) -> None:
    expect = sync_api.expect
    type_name(page, 'image1/classes=4,size=64')
    expect(page.locator(PROBLEM)).to_contain_text('image1 needs an image')

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
        expect(page.locator(PROBLEM)).to_contain_text(words)
        assert str(tmp_path) not in page.content()
    upload(photo_file(tmp_path / 'a', 'white'))
    page.wait_for_selector(SHEET)
    expect(page.locator(PROBLEM)).to_have_count(0)
    old = picture(page)
    page.locator('#image1-warp').get_by_text('elastic', exact=True).click()
    wait_for_another(page, old)
    open_tab(page, 'Train')
    expect(page.locator('#command')).to_contain_text('--data-dir photo.png')


def test_two_visitors(browser: Any, page: Any, address: str) -> None:
    type_name(page, SMALL + ',seed=8')
    sync_api.expect(page.locator('#fractal1-seed input')).to_have_value('8')
    context = browser.new_context()
    other = context.new_page()
    other.goto(address)
    other.wait_for_selector(SHEET)
    assert name(other).input_value() == SMALL
    type_name(other, SMALL + ',seed=9')
    sync_api.expect(other.locator('#fractal1-seed input')).to_have_value('9')
    assert name(page).input_value() == 'fractal1/classes=8,points=3000,size=64,seed=8'
    context.close()


def test_the_page_fits(page: Any) -> None:
    for width in (390, 1400):
        page.set_viewport_size({'width': width, 'height': 900})
        page.wait_for_timeout(300)
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        assert page.locator(SHEET).bounding_box()['width'] > 250


@pytest.mark.timm_source
@pytest.mark.skipif(not SOURCE, reason='TIMM_SOURCE is not set to a checkout of timm: its train.py is not run')
def test_the_copied_line_runs(page: Any, tmp_path: Path) -> None:
    open_tab(page, 'Training samples')
    model = page.locator('#model input')
    model.fill('test_vit')
    model.press('Enter')
    open_tab(page, 'Train')
    sync_api.expect(page.locator('#command')).to_contain_text('--model test_vit')
    line = '\n'.join(page.locator('#command .cm-line').all_inner_texts())
    words = [sys.executable, f'{SOURCE}/train.py', *shlex.split(line.replace('\\\n', ''))[2:]]
    words += shlex.split('--device cpu --epochs 1 --warmup-epochs 0 --batch-size 8 --workers 0 --output out')
    environment = os.environ | {'OMP_NUM_THREADS': '1'}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'Train: 0 [   0/1' in done.stderr


def test_changes_are_answered_in_time(browser: Any) -> None:
    """32 tiles twice, of the paper's data set: 0.5 s on two free cores, and some more here since cores may be busy."""
    with explorer('fractal1') as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector(SHEET)
        times = []
        for seed in range(20, 25):
            page.wait_for_timeout(500)
            old, start = picture(page), time.monotonic()
            page.locator('#fractal1-seed input').fill(str(seed))
            wait_for_another(page, old)
            times.append(time.monotonic() - start)
        page.close()
    assert sorted(times)[2] < 2, times
