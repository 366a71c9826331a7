"""The page: Gradio's components around `controls`, `pictures` and `recipes`. Only this module needs Gradio."""

import asyncio
import base64
import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._utils.messages import install_extra
from ..data.base import watched_parts, watcher
from ..spec import SPECS, Spec, parse_name
from . import pictures, recipes, uploads
from .controls import Control, Reading, controls, read_controls, read_name, steps, values
from .sheets import SWEEPS, sweepable
from .turns import Superseded, Turns
from .uploads import Source

try:
    import gradio as gr
except ImportError:
    gr = None

#: Where the page can be reached from: this machine alone.
LOOPBACK = '127.0.0.1'

_SPLITS = ('train', 'validation')
_TABS = ('Classes', 'Sweep', 'One class', 'Training samples', 'Train', 'Weights')

# Errors are seen.
_STYLE = """
.wrong, [id^=problem-], #message { border-left: 4px solid #d03030 !important; padding-left: 8px }
"""

# Names and controls respond immediately, whatever is being rendered; the last of several changes wins.
_AT_ONCE: dict[str, Any] = dict(trigger_mode='always_last', concurrency_limit=None, show_progress='hidden')
# The server learns of every change immediately and cancels the rendering of an earlier one: see `turns`.
_RENDER: dict[str, Any] = dict(trigger_mode='multiple', concurrency_limit=None)
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
        name: Data set name that is shown first.
        data_dir: What ``--data-dir`` is in a training script, for data sets of that type.
        host: Address to listen at; by default GRADIO_SERVER_NAME, else 127.0.0.1: this machine alone.
        port: By default GRADIO_SERVER_PORT, else the first free one from 7860.
        wait: Whether to return only when the page is closed.

    Returns:
        The page, which has ``close()``, and ``local_url``.

    Raises:
        ValueError: The name is not valid.
        OSError: ``data_dir`` does not exist, or the port is taken.
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
        # Kept in the browser, every picture that was seen: the page became slower with each.
        run_history=False,
        css=_STYLE,
        footer_links=['gradio'],
    )
    # Not all are in Gradio 5.
    known = inspect.signature(page.launch).parameters
    try:
        page.launch(**{key: value for key, value in options.items() if key in known})
    except OSError as error:
        ports = f'port {port}' if port else 'every port from 7860 to 7959'
        raise OSError(f'{ports} at {host} is taken, or that is not an address of this machine') from error
    if wait:
        print(f'timm-fractal explore: {page.local_url} (Ctrl-C ends it)', flush=True)
        page.block_thread()
    return page


def make_page(name: str = 'fractal1', data_dir: str | Path | None = None) -> Any:
    """Make the page without serving it; arguments and errors are those of `launch`.

    Returns:
        ``gradio.Blocks``.
    """
    if gr is None:
        raise ImportError(f'the page needs Gradio: {install_extra("explore")}')
    start = parse_name(name)
    own = uploads.local(data_dir) if data_dir else None
    # What visitors leave is deleted after an hour.
    with gr.Blocks(title='timm-fractal', analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as page:
        _Page(start, own).build(page)
    return page


class _Page:
    """Components and what happens to them. Its one state is the turns; what a visitor does stays in the browser."""

    def __init__(self, start: Spec, own: Source | None) -> None:
        self.start, self.own = start, own
        #: Those of the moment the page is made: each has its controls.
        self.types = SPECS.loaded()
        self.turns = Turns()
        self.free = asyncio.Semaphore(_RENDERED_AT_ONCE)
        self.problems: dict[str, Any] = {}
        self.groups: dict[str, Any] = {}
        self.fields: dict[str, list[Any]] = {}

    def build(self, page: Any) -> None:
        start = self.start
        gr.Markdown('# timm-fractal\nData sets that are rendered from a few numbers, as a training sees them.')
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                self.name = gr.Textbox(start.name(), label='Data set', info='type/option=value,...; Enter reads it')
                self.message = gr.Markdown(visible=False, elem_id='message')
                self.kind = gr.Dropdown(list(self.types), value=start.type, label='Type')
                with gr.Group(visible=start.reads == 'images') as self.photo_group:
                    self.photo = gr.File(label='Photograph', elem_id='photo', height=120)
                for kind, spec in self.types.items():
                    with gr.Column(visible=kind == start.type, elem_id=f'options-{kind}') as self.groups[kind]:
                        current = start if kind == start.type else spec()
                        self.fields[kind] = [
                            _component(kind, control, value) for control, value in zip(controls(spec), values(current))
                        ]
            with gr.Column(scale=3, min_width=320):
                self.note = gr.Markdown(elem_id='note')
                with gr.Tabs() as self.tabs:
                    for label, build in zip(
                        _TABS,
                        (self._classes, self._sweep, self._one_class, self._samples, self._train, self._weights),
                    ):
                        with gr.Tab(label, id=label):
                            self.problems[label] = gr.Markdown(visible=False, elem_id=f'problem-{_TABS.index(label)}')
                            build()
        # The last valid name, what the name's box said last, the option beside which there is an error, the tab seen.
        self.valid, self.said = gr.State(start.name()), gr.State(start.name())
        self.wrong, self.active = gr.State(''), gr.State(_TABS[0])
        self._connect(page)

    def _classes(self) -> None:
        with gr.Row():
            self.sheets = [_picture(f'sheet-{split}') for split in _SPLITS]
        self.verdict = gr.Markdown(elem_id='verdict')

    def _sweep(self) -> None:
        options = sweepable(self.start)
        with gr.Row():
            self.option = gr.Dropdown(
                options,
                value=_first(options),
                label='Option',
                elem_id='sweep-option',
                # Gradio refuses values that are not among the choices, as those of the previous type are for a moment.
                allow_custom_value=True,
            )
            self.values = gr.Textbox(
                label='Values', info=f'separated by commas, at most {pictures.MAX_ROWS}; empty: some of the range'
            )
        self.sweep_picture = _picture('sweep')

    def _one_class(self) -> None:
        self.number = gr.Slider(0, pictures.LAST_CLASS, value=0, step=1, label='Class', elem_id='class-number')
        with gr.Row():
            self.large = _picture('large')
            self.instances = _picture('instances')

    def _samples(self) -> None:
        with gr.Row():
            names = list(recipes.RECIPES)
            self.recipe = gr.Dropdown(names, value=names[0], label='Recipe', elem_id='recipe')
            self.model = gr.Dropdown(
                list(recipes.MODELS),
                value=recipes.MODELS[0],
                label='Model',
                info='any name of timm; its input size is that of the samples',
                allow_custom_value=True,
                elem_id='model',
            )
            self.seed = gr.Number(0, label='Which samples', precision=0, elem_id='samples-seed')
        self.samples = _picture('samples')

    def _train(self) -> None:
        gr.Markdown(
            "timm's train.py; the recipe and the model are those of the samples. The augmentation is in both forms, "
            'optimizer and schedule are for you to choose.'
        )
        self.command = gr.Code(label='Command line', language='shell', interactive=False, elem_id='command')
        self.config = gr.Code(
            label='The same for train.py --config', language='yaml', interactive=False, elem_id='config'
        )

    def _weights(self) -> None:
        found = pictures.weight_names()
        self.weights = gr.Dropdown(found, value=found[0], label='Published weights', elem_id='weights')
        self.card = gr.Markdown(elem_id='card')
        self.filters = _picture('filters')
        self.image = gr.File(label='An image: which classes does it resemble?', elem_id='image', height=120)
        self.nearest = _picture('nearest')

    def _connect(self, page: Any) -> None:
        everything = [
            self.name,
            self.kind,
            self.message,
            self.valid,
            self.said,
            self.wrong,
            self.photo_group,
            *self.groups.values(),
            *(field for fields in self.fields.values() for field in fields),
        ]
        gr.on([self.name.submit, self.name.blur], self._from_name, [self.name, self.said], everything, **_AT_ONCE)
        self.kind.input(self._from_name, [self.kind, self.said], everything, **_AT_ONCE)
        for kind, fields in self.fields.items():
            for field in fields:
                field.input(
                    functools.partial(self._from_controls, kind),
                    [self.wrong, *fields],
                    [self.name, self.message, self.valid, self.said, self.wrong, *fields],
                    **_AT_ONCE,
                )
        self.tabs.select(_selected, None, [self.active], **_AT_ONCE)
        gr.on(
            [page.load, self.valid.change],
            self._options,
            [self.valid, self.option],
            [self.option, self.note],
            **_AT_ONCE,
        )
        changed = [page.load, self.valid.change, self.active.change, self.photo.change]
        tabs: list[tuple[Callable[..., list[Any]], list[Any], list[Any]]] = [
            (_draw_classes, [], self.sheets),
            (_draw_sweep, [self.option, self.values], [self.sweep_picture]),
            (_draw_class, [self.number], [self.large, self.instances]),
            (_draw_samples, [self.recipe, self.model, self.seed], [self.samples]),
            (_write_command, [self.recipe, self.model], [self.command, self.config]),
            (_draw_weights, [self.weights, self.image], [self.card, self.filters, self.nearest]),
        ]
        for label, (draw, own, outputs) in zip(_TABS, tabs):
            gr.on(
                [*changed, *(component.change for component in own)],
                self._shows(label, draw, len(outputs)),
                [self.active, self.valid, self.photo, *own],
                [*outputs, self.problems[label]],
                **_RENDER,
            )

        # By itself: the sheets do not wait for it.
        gr.on(
            changed,
            self._shows(_TABS[0], _say_verdict, 1),
            [self.active, self.valid, self.photo],
            [self.verdict, gr.State()],
            **_RENDER | dict(show_progress='hidden'),
        )
        page.unload(self._forget)

    # From here on: what events do.

    def _from_name(self, name: str, said: str) -> list[Any]:
        """Fill the controls."""
        if name == said:
            # Somebody looked at the name and went on to a control, which must not be set back.
            count = sum(map(len, self.fields.values()))
            return [gr.skip()] * (7 + len(self.groups) + count)
        reading = read_name(name or '')
        kind = reading.kind if reading.kind in self.types else ''
        updates: list[Any] = [
            # What reads as it was written stays: the visitor may be typing on.
            reading.name if reading.spec and reading.name != name else gr.skip(),
            kind or gr.skip(),
            _text(reading.error if not reading.option else ''),
            reading.name if reading.spec else gr.skip(),
            reading.name,
            reading.option,
            gr.update(visible=self.types[kind].reads == 'images') if kind else gr.skip(),
            *(gr.update(visible=kind == each) if kind else gr.skip() for each in self.types),
        ]
        for each, spec in self.types.items():
            shown = values(reading.spec) if reading.spec and each == kind else None
            for place, control in enumerate(controls(spec)):
                changed = {'value': shown[place]} if shown else {}
                updates.append(gr.update(**_warned(control, reading), **changed) if each == kind else gr.skip())
        return updates

    def _from_controls(self, kind: str, wrong: str, *given: Any) -> list[Any]:
        """Write the name. Only controls with another value change: one must not lose what is being typed."""
        reading = read_controls(kind, given)
        return [
            reading.name,
            _text(reading.error if not reading.option else ''),
            reading.name if reading.spec else gr.skip(),
            reading.name,
            reading.option,
            *(
                # A slider forgets its value when only the text beside it changes.
                gr.update(**_warned(control, reading), **({'value': value} if control.kind == 'slider' else {}))
                if control.name in (wrong, reading.option)
                else gr.skip()
                for control, value in zip(controls(self.types[kind]), given)
            ),
        ]

    def _options(self, name: str, option: str) -> list[Any]:
        spec = parse_name(name)
        options = sweepable(spec)
        note = pictures.shown(spec)[1]
        option = option if option in options else _first(options)
        return [gr.update(choices=options, value=option), note[:1].upper() + note[1:]]

    def _source(self, spec: Spec, photo: str | None) -> Source | None:
        if spec.reads == 'images' and photo:
            return uploads.photograph(photo)
        return self.own if spec.type == self.start.type else None

    def _shows(self, tab: str, draw: Callable[..., list[Any]], count: int) -> Callable[..., Any]:
        """Make a function that renders what a tab shows, if it is the one that is seen; an error is text above it."""
        nothing = [gr.skip()] * (count + 1)

        def render(watch: Callable[[float], None], name: str, photo: str | None, *own: Any) -> list[Any]:
            spec = parse_name(name)
            try:
                watch(0)
                watcher.set(watch)
                return [*draw(spec, self._source(spec, photo), *own), _text('')]
            except Superseded:
                return nothing
            except ValueError as error:
                return [*[''] * count, _text(str(error))]

        # Turns are taken in the server's event loop, where changes arrive in their order. Gradio finds the request by
        # its annotation, and the progress by its default.
        async def show(
            request: 'gr.Request',
            progress: Any = gr.Progress(),  # noqa: B008
            active: str = '',
            *shown: Any,
        ) -> list[Any]:
            if active != tab:
                return nothing
            watch = self.turns.take(str(request.session_hash), draw.__name__, progress)
            async with self.free:
                return await asyncio.to_thread(render, watch, *shown)

        return show

    def _forget(self, request: 'gr.Request') -> None:
        self.turns.forget(str(request.session_hash))


def _draw_classes(spec: Spec, source: Source | None) -> list[Any]:
    return [
        _figure(
            f'{split.capitalize()}: the first {min(pictures.CLASSES, spec.num_classes)} classes',
            pictures.contact(spec.name(), split, source),
        )
        for split in watched_parts(_SPLITS)
    ]


def _draw_sweep(spec: Spec, source: Source | None, option: str, text: str) -> list[Any]:
    if option not in sweepable(spec):
        # The list of options is about to change with the type.
        return [gr.skip()]
    given = [value.strip() for value in text.split(',') if value.strip()]
    rows = given or SWEEPS.get(option) or steps(spec, option)
    sheet = pictures.sweep(spec.name(), option, tuple(rows), source)
    return [_figure(f'The first {pictures.ROW} classes, one row per value', sheet)]


def _draw_class(spec: Spec, source: Source | None, number: float) -> list[Any]:
    large, instances = pictures.one_class(spec.name(), int(number), source)
    return [_figure(f'Class {int(number)}', large), _figure('Images of this class', instances)]


def _draw_samples(spec: Spec, source: Source | None, recipe: str, model: str, seed: float | None) -> list[Any]:
    made = pictures.training_samples(spec.name(), recipe, model or '', int(seed or 0) % 2**32, source)
    return [_figure(f'{len(made)} samples of the first classes, as the model gets them', *made, width='24%')]


def _write_command(spec: Spec, source: Source | None, recipe: str, model: str) -> list[Any]:
    arguments = recipes.arguments(spec, model or '', recipe, source.shown if source else None)
    return [recipes.command(arguments), recipes.config(arguments)]


def _say_verdict(spec: Spec, source: Source | None) -> list[Any]:
    return [pictures.verdict(spec.name(), source)]


def _draw_weights(spec: Spec, source: Source | None, name: str, image: str | None) -> list[Any]:
    found = pictures.resemblances(name, image) if image else []
    figures = [_figure(words, *[made] if made else [], width='128px') for words, made in found]
    row = f'<div style="display: flex; flex-wrap: wrap; gap: 12px">{"".join(figures)}</div>'
    sheet = _figure('Filters of the first layer, attention of each block', pictures.weights(name))
    return [pictures.card(name), sheet, row if figures else '']


def _component(kind: str, control: Control, value: Any) -> Any:
    options: dict[str, Any] = dict(
        value=value, label=control.name, info=control.info, elem_id=f'{kind}-{control.name}', interactive=True
    )
    if control.kind == 'words':
        return gr.Radio(list(control.choices), **options)
    if control.kind == 'slider':
        return gr.Slider(*control.ends, step=control.step, **options)
    return gr.Number(**options)


def _picture(elem_id: str) -> Any:
    with gr.Column(min_width=320):
        return gr.HTML(elem_id=elem_id)


def _figure(caption: str, *pictures: bytes, width: str = '100%') -> str:
    """PNG pictures side by side, in the page itself: no file of one visitor lies where another could ask for it."""
    images = ''.join(
        f'<img alt="{caption}" style="width: {width}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        for picture in pictures
    )
    row = 'display: flex; flex-wrap: wrap; gap: 4px'
    return f'<figure><figcaption>{caption}</figcaption><div style="{row}">{images}</div></figure>'


def _warned(control: Control, reading: Reading) -> dict[str, Any]:
    """What stands beside a control, marked if that is an error."""
    return dict(info=_info(control, reading), elem_classes=['wrong'] if control.name == reading.option else [])


def _info(control: Control, reading: Reading) -> str:
    return f'\N{WARNING SIGN} {reading.error}' if control.name == reading.option else control.info


def _text(message: str) -> Any:
    return gr.update(value=f'\N{WARNING SIGN} {message}' if message else '', visible=bool(message))


def _selected(event: 'gr.SelectData') -> str:
    return str(event.value)


def _first(options: list[str]) -> str:
    """The option whose sweep is shown first: delta, where there is one."""
    return 'delta' if 'delta' in options else options[0]
