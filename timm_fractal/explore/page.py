"""The page: Gradio components around `controls`, `pictures` and `recipes`. Only this module needs Gradio."""

import asyncio
import base64
import functools
import html
import inspect
import itertools
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from .._utils.messages import install_extra
from ..data.base import watcher
from ..hub.manifest import manifest
from ..spec import SPECS, Spec, parse_name
from . import pictures, recipes, uploads
from .controls import Control, controls, steps, values, written
from .sheets import SWEEPS, sweepable
from .turns import Superseded, Turns
from .uploads import Source

try:
    import gradio as gr
except ImportError:
    gr = None

#: Default address: only this machine can reach the page.
LOOPBACK = '127.0.0.1'

#: Data sets of the buttons.
PRESETS = {
    'The paper': 'fractal1',
    'For small budgets': 'fractal1/classes=100,delta=0.2,patch=fill',
    '100 fractals': 'fractal1/fractals=100',
    'One photograph': 'image1',
    'VisualAtom': 'visualatom',
    'Noise': 'noise1',
}

_WHAT = (
    'Each tile is a class: one fractal (or photograph, contour, noise image) with its parameters slightly changed. '
    'A model is pre-trained to classify them.'
)
_PAPER = 'https://arxiv.org/abs/2408.00677'
# Options beside the picture; all others are folded away.
_FIRST = ('seed', 'delta', 'sigma')

# The picture stays in view while the controls beside it (on a phone, below it) scroll.
_STYLE = """
.gradio-container { overflow: clip !important }
.gradio-container .app { padding: 4px clamp(4px, 1vw, 16px) }
.gradio-container .html-container { padding: 0 }
#head .prose { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 12px }
#head h1 { font-size: 20px; margin: 0 }
#bar { align-items: center }
#bar > .form { flex: 1 1 300px }
#presets { flex: 0 1 auto; width: auto; flex-wrap: wrap; gap: 6px }
#presets button { flex: 0 0 auto; min-width: 0; padding: 6px 10px }
#picture { position: sticky; top: 0; align-self: flex-start; z-index: 60; background: var(--body-background-fill) }
#sheet .tiles { max-height: calc(100vh - 32px); overflow-y: auto }
.tiles { --tile: 104px; display: grid; gap: 2px; grid-template-columns: repeat(auto-fill, minmax(var(--tile), 1fr)) }
#samples .tiles { --tile: 150px }
.whole { display: grid; gap: 8px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)) }
.tiles img, .whole img { width: 100%; max-width: 1200px; margin: 0 }
figure { margin: 0 }
figcaption { opacity: 0.75; padding: 4px 0 }
.wrong { border-left: 4px solid #d03030; padding-left: 8px }
@media (max-width: 640px) {
  html { scroll-padding-top: calc(42vh + 40px) }
  #sheet .tiles { max-height: 42vh }
  .tiles, #samples .tiles { --tile: 80px }
}
"""

# Names and controls respond immediately, even during rendering; the last of several changes wins.
_AT_ONCE: dict[str, Any] = dict(trigger_mode='always_last', concurrency_limit=None, show_progress='hidden')
# The server gets every change immediately, and cancels the rendering of earlier ones, see `turns`.
_RENDER: dict[str, Any] = dict(trigger_mode='multiple', concurrency_limit=None, show_progress='minimal')
_RENDERED_AT_ONCE = 2


def launch(
    name: str = 'fractal1',
    data_dir: str | Path | None = None,
    host: str | None = None,
    port: int | None = None,
    wait: bool = True,
) -> Any:
    """Open the page and serve it until the process is interrupted.

    Args:
        name: Data set shown first.
        data_dir: ``--data-dir`` of a training script, for data sets of that type.
        host: Address to listen on; by default GRADIO_SERVER_NAME, else 127.0.0.1 (only this machine).
        port: By default GRADIO_SERVER_PORT, else the first free one from 7860.
        wait: Block until the page is closed.

    Returns:
        The page, with ``close()`` and ``local_url``.

    Raises:
        ValueError: The name is not valid.
        OSError: ``data_dir`` does not exist, or the port is in use.
        ImportError: Gradio is not installed.
    """
    page = make_page(name, data_dir)
    host = host or os.environ.get('GRADIO_SERVER_NAME') or LOOPBACK
    page.queue(max_size=64)
    options: dict[str, Any] = dict(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        quiet=True,
        max_file_size=uploads.MAX_BYTES,
        prevent_thread_lock=True,
        # The history keeps every picture in the browser, which slows the page down.
        run_history=False,
        css=_STYLE,
        theme=gr.themes.Default(primary_hue='indigo', spacing_size='sm').set(block_info_text_color='*neutral_500'),
        footer_links=['gradio'],
    )
    # Gradio 6.0 lacks some of them.
    known = inspect.signature(page.launch).parameters
    try:
        page.launch(**{key: value for key, value in options.items() if key in known})
    except OSError as error:
        ports = f'port {port}' if port else 'every port from 7860 to 7959'
        raise OSError(f'{ports} at {host} is in use, or that is not an address of this machine') from error
    if wait:
        print(f'timm-fractal explore: {page.local_url} (press Ctrl-C to stop)', flush=True)
        page.block_thread()
    return page


def make_page(name: str = 'fractal1', data_dir: str | Path | None = None) -> Any:
    """Build the page (``gradio.Blocks``) without serving it; arguments and errors are those of `launch`."""
    if gr is None:
        raise ImportError(f'the page needs Gradio: {install_extra("explore")}')
    start = parse_name(name)
    own = uploads.local(data_dir) if data_dir else None
    # Uploads are deleted after an hour.
    with gr.Blocks(title='timm-fractal', analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as page:
        _Page(start, own).build(page)
    return page


class _Page:
    """Components and event handlers. Visitors share only the turns; the rest of their state is in ``gr.State``."""

    def __init__(self, start: Spec, own: Source | None) -> None:
        self.start, self.own = start, own
        self.turns = Turns()
        self.free = asyncio.Semaphore(_RENDERED_AT_ONCE)
        self.fillings = itertools.count()

    def build(self, page: Any) -> None:
        self.page, start = page, self.start
        # The last valid name, which is rendered; and the name in the controls, numbered so that returning to an earlier
        # name is a change.
        self.valid, self.filled = gr.State(start.name()), gr.State((start.name(), -1))
        gr.Markdown(_head(), elem_id='head')
        with gr.Row(elem_id='bar'):
            with gr.Row(elem_id='presets'):
                presets = [(gr.Button(label, size='sm'), name) for label, name in PRESETS.items()]
            self.name = gr.Textbox(start.name(), label='Data set', buttons=['copy'], elem_id='name')
        with gr.Row():
            with gr.Column(scale=3, min_width=320, elem_id='picture'):
                sheet = gr.HTML(elem_id='sheet')
                self.message = gr.HTML(elem_id='message')
            with gr.Column(scale=1, min_width=280):
                kind = gr.Dropdown(list(SPECS.loaded()), value=start.type, label='type', elem_id='type')
                count = gr.Slider(8, pictures.CLASSES, value=40, step=8, label='classes shown', elem_id='count')
                self.photo = gr.File(label='Photograph', elem_id='photo', height=120, visible=start.reads == 'images')
                gr.render(self.filled, [page.load, self.filled.change], show_progress='hidden')(self._controls)
        verdict = gr.Markdown(elem_id='verdict')
        self._draws(page, functools.partial(_draw_classes, 'train'), [count], [sheet])
        self._draws(page, _say_verdict, [], [verdict], show_progress='hidden')

        with gr.Accordion('Validation images', open=False) as fold:
            validation = gr.HTML(elem_id='validation')
        self._draws(fold, functools.partial(_draw_classes, 'validation'), [count], [validation])
        with gr.Accordion('Sweep of an option', open=False) as fold:
            self._sweep(fold)
        with gr.Accordion('One class', open=False) as fold:
            number = gr.Slider(0, pictures.LAST_CLASS, value=0, step=1, label='class', elem_id='class-number')
            one_class = gr.HTML(elem_id='one-class')
        self._draws(fold, _draw_class, [number], [one_class])
        with gr.Accordion('Training: samples and command line', open=False) as fold:
            self._training(fold)
        with gr.Accordion('Published weights', open=False) as fold:
            self._weights(fold)

        filled = [self.name, self.message, self.valid, self.filled, kind, self.photo]
        self.name.submit(self._from_box, [self.name], filled, **_AT_ONCE)
        self.name.blur(self._from_look, [self.name, self.valid], filled, **_AT_ONCE)
        kind.input(self._from_name, [kind], filled, **_AT_ONCE)
        for button, name in presets:
            button.click(functools.partial(self._from_name, name), None, filled, **_AT_ONCE)
        page.unload(self._forget)

    def _controls(self, filled: tuple[str, int]) -> None:
        """Make the controls for the type and values of a name."""
        spec = parse_name(filled[0])
        known = {control.name: (control, value) for control, value in zip(controls(spec), values(spec))}
        fields = {name: _component(spec.type, *known[name]) for name in _FIRST if name in known}
        with gr.Accordion('All options', open=False, elem_id='options'):
            fields |= {name: _component(spec.type, *known[name]) for name in known if name not in _FIRST}
        given = [fields[name] for name in known]
        write = functools.partial(self._from_controls, spec.type)
        for field in given:
            field.input(write, given, [self.name, self.message, self.valid], **_AT_ONCE)
        if 'maps' in fields:
            # The largest sigma depends on it.
            refill = functools.partial(self._fill_from_controls, spec.type)
            fields['maps'].release(refill, given, [self.filled], **_AT_ONCE)

    def _sweep(self, fold: Any) -> None:
        options = sweepable(self.start)
        with gr.Row():
            # Custom values, since the option of the previous type is briefly not among the choices.
            option = gr.Dropdown(
                options, value=_first(options), label='option', elem_id='sweep-option', allow_custom_value=True
            )
            rows = gr.Textbox(
                label='values', info=f'separated by commas, at most {pictures.MAX_ROWS}; empty: default values'
            )
        sweep = gr.HTML(elem_id='sweep')
        self._draws(fold, _draw_sweep, [option, rows], [sweep, option])

    def _training(self, fold: Any) -> None:
        with gr.Row():
            names = list(recipes.RECIPES)
            recipe = gr.Dropdown(names, value=names[0], label='recipe', elem_id='recipe')
            model = gr.Dropdown(
                list(recipes.MODELS),
                value=recipes.MODELS[0],
                label='model',
                info='any name of timm; its input size is that of the samples',
                allow_custom_value=True,
                elem_id='model',
            )
            seed = gr.Number(0, label='which samples', precision=0, elem_id='samples-seed')
        samples = gr.HTML(elem_id='samples')
        gr.Markdown(
            "For timm's train.py: the augmentation is in both forms, optimizer and schedule are for you to choose."
        )
        command = gr.Code(label='Command line', language='shell', interactive=False, elem_id='command')
        config = gr.Code(label='File for --config', language='yaml', interactive=False, elem_id='config')
        self._draws(fold, _draw_samples, [recipe, model, seed], [samples])
        self._draws(fold, _write_command, [recipe, model], [command, config])

    def _weights(self, fold: Any) -> None:
        found = list(manifest())
        weights = gr.Dropdown(found, value=found[0], label='weights', elem_id='weights')
        filters = gr.HTML(elem_id='filters')
        image = gr.File(label='An image: which classes does it resemble?', elem_id='image', height=120)
        nearest = gr.HTML(elem_id='nearest')
        card = gr.Markdown(elem_id='card')
        self._draws(fold, _draw_weights, [weights], [filters, card])
        self._draws(fold, _draw_resemblances, [weights, image], [nearest])

    def _draws(
        self, place: Any, draw: Callable[..., list[Any]], own: list[Any], outputs: list[Any], **options: Any
    ) -> None:
        """Call ``draw`` whenever its inputs change; in a fold, only while that is open.

        ``draw`` gets the specification, its source, and the values of the components ``own``, and returns the values of
        ``outputs``, the first of which also shows errors.
        """
        is_open = gr.State(place is self.page)
        if place is self.page:
            events = [place.load]
        else:
            place.expand(lambda: True, None, is_open, **_AT_ONCE)
            place.collapse(lambda: False, None, is_open, **_AT_ONCE)
            events = [is_open.change]

        def render(watch: Callable[[float], None], name: str, photo: str | None, *given: Any) -> Any:
            spec = parse_name(name)
            try:
                watch(0)
                watcher.set(watch)
                made = draw(spec, self._source(spec, photo), *given)
            except Superseded:
                return gr.skip()
            except ValueError as error:
                made = [_wrong(str(error)), *[gr.skip()] * (len(outputs) - 1)]
            return made if len(outputs) > 1 else made[0]

        # Turns are taken in the server's event loop, where changes arrive in order. Gradio finds the request by its
        # annotation, and the progress by its default.
        async def show(
            request: 'gr.Request',
            progress: Any = gr.Progress(),  # noqa: B008
            is_open: bool = False,
            *shown: Any,
        ) -> Any:
            if not is_open:
                return gr.skip()
            watch = self.turns.take(str(request.session_hash), outputs[0].elem_id, progress)
            async with self.free:
                return await asyncio.to_thread(render, watch, *shown)

        events += [self.valid.change, self.photo.change, *(component.change for component in own)]
        gr.on(events, show, [is_open, self.valid, self.photo, *own], outputs, **_RENDER | options)

    # Event handlers.

    def _fill(self, name: str) -> tuple[str, int]:
        return name, next(self.fillings)

    def _fill_from_controls(self, kind: str, *given: Any) -> Any:
        """Refill the controls; the rendered name may lag behind them."""
        try:
            return self._fill(parse_name(written(kind, given)).name())
        except ValueError:
            return gr.skip()

    def _from_name(self, name: str) -> list[Any]:
        """Render a name and fill the controls."""
        try:
            spec = parse_name((name or '').strip())
        except ValueError as error:
            return [gr.skip(), _wrong(str(error)), *[gr.skip()] * 4]
        name = spec.name()
        return [name, '', name, self._fill(name), spec.type, gr.update(visible=spec.reads == 'images')]

    def _from_box(self, name: str) -> list[Any]:
        """Like `_from_name`, but leave canonical text alone, since the visitor may still be typing."""
        changed = self._from_name(name)
        return [gr.skip() if changed[0] == name else changed[0], *changed[1:]]

    def _from_look(self, name: str, valid: str) -> Any:
        """Like `_from_box`, but ignore an unchanged name: the visitor may already be using a control."""
        return gr.skip() if name == valid else self._from_box(name)

    def _from_controls(self, kind: str, *given: Any) -> list[Any]:
        """Render and write the name, unless it is invalid."""
        try:
            name = parse_name(written(kind, given)).name()
        except ValueError as error:
            return [gr.skip(), _wrong(str(error)), gr.skip()]
        return [name, '', name]

    def _source(self, spec: Spec, photo: str | None) -> Source | None:
        if spec.reads == 'images' and photo:
            return uploads.photograph(photo)
        return self.own if spec.type == self.start.type else None

    def _forget(self, request: 'gr.Request') -> None:
        self.turns.forget(str(request.session_hash))


def _head() -> str:
    """Return the title, the introduction and links; those to the project are in the package's metadata."""
    found = metadata.distributions(name='timm-fractal')
    urls = [url for each in found for url in each.metadata.get_all('Project-URL') or []]
    links = {'Paper': _PAPER} | dict(url.split(', ', 1) for url in urls)
    return f'# timm-fractal\n{_WHAT} ' + ' '.join(f'[{label}]({url})' for label, url in links.items())


def _draw_classes(split: str, spec: Spec, source: Source | None, count: float) -> list[Any]:
    found = pictures.classes(spec.name(), split, int(count), source=source)
    caption = f'{spec.name()}: the first {len(found)} of {spec.num_classes:,} classes'
    words = (caption, 'validation' if split == 'validation' else '', pictures.shown(spec)[1])
    return [_figure(', '.join(filter(None, words)), *found, alt='class {}')]


def _say_verdict(spec: Spec, source: Source | None) -> list[Any]:
    try:
        return [pictures.verdict(spec.name(), source=source)]
    except ValueError:
        # The sheet shows the error.
        return ['']


def _draw_sweep(spec: Spec, source: Source | None, option: str, text: str) -> list[Any]:
    options = sweepable(spec)
    option = option if option in options else _first(options)
    given = [value.strip() for value in text.split(',') if value.strip()]
    rows = given or SWEEPS.get(option) or steps(spec, option)
    sheet = pictures.sweep(spec.name(), option, tuple(rows), source=source)
    caption = f'The first {pictures.ROW} classes, one row per value'
    return [_figure(caption, sheet), gr.update(choices=options, value=option)]


def _draw_class(spec: Spec, source: Source | None, number: float) -> list[Any]:
    large, instances = pictures.one_class(spec.name(), int(number), source=source)
    return [_figure(f'Class {int(number)}, and images of it', large, instances)]


def _draw_samples(spec: Spec, source: Source | None, recipe: str, model: str, seed: float | None) -> list[Any]:
    made = pictures.training_samples(spec.name(), recipe, model or '', int(seed or 0) % 2**32, source=source)
    return [_figure(f'{len(made)} samples of the first classes: model inputs', *made)]


def _write_command(spec: Spec, source: Source | None, recipe: str, model: str) -> list[Any]:
    arguments = recipes.arguments(spec, model or '', recipe, source.shown if source else None)
    return [recipes.command(arguments), recipes.config(arguments)]


def _draw_weights(spec: Spec, source: Source | None, name: str) -> list[Any]:
    from . import weights

    sheet = _figure('Filters of the first layer, attention of each block', pictures.png(weights.picture(name)))
    return [sheet, weights.card(name)]


def _draw_resemblances(spec: Spec, source: Source | None, name: str, image: str | None) -> list[Any]:
    from . import weights

    found = weights.resemblances(name, image) if image else []
    return [
        ''.join(
            _figure(f'class {label}: {probability:.1%}', *[pictures.png(tile)] if tile else [])
            for label, probability, tile in found
        )
    ]


def _component(kind: str, control: Control, value: Any) -> Any:
    options: dict[str, Any] = dict(
        value=value, label=control.name, info=control.info, elem_id=f'{kind}-{control.name}', interactive=True
    )
    if control.kind == 'words':
        return gr.Radio(list(control.choices), **options)
    if control.kind == 'slider':
        return gr.Slider(*control.ends, step=control.step, **options)
    return gr.Number(**options)


def _figure(caption: str, *pictures: bytes, alt: str = '{}') -> str:
    """Return HTML with inlined PNG pictures, so that visitors cannot request each other's files."""
    images = ''.join(
        f'<img alt="{alt.format(k)}" src="data:image/png;base64,{base64.b64encode(each).decode()}">'
        for k, each in enumerate(pictures)
    )
    kind = 'tiles' if len(pictures) > 2 else 'whole'
    return f'<figure><figcaption>{html.escape(caption)}</figcaption><div class="{kind}">{images}</div></figure>'


def _wrong(message: str) -> str:
    return f'<p class="wrong">\N{WARNING SIGN} {html.escape(message)}</p>'


def _first(options: list[str]) -> str:
    """Return the option whose sweep is shown first: delta if available."""
    return 'delta' if 'delta' in options else options[0]
