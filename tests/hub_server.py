"""A minimal Hub on the loopback interface, for tests of the real huggingface_hub over HTTP.

It supports creating repositories, uploads (regular files and LFS), pull requests, and downloads. Repositories are in
memory. Faults can be injected, see `Hub`.
"""

import base64
import collections
import contextlib
import dataclasses
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = 'hf_loopback'
OWNER = 'me'


@dataclasses.dataclass
class Repo:
    private: bool = False
    commits: dict = dataclasses.field(default_factory=dict)  # commit id -> {path: content}
    refs: dict = dataclasses.field(default_factory=dict)  # branch -> commit id

    def commit(self, ref, files, parent='main'):
        base = self.commits.get(self.refs.get(ref, self.refs.get(parent)), {})
        files = base | files
        digest = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[digest] = files
        self.refs[ref] = digest
        return digest

    def resolve(self, revision):
        return self.refs.get(revision, revision if revision in self.commits else None)


class Hub:
    """The server and its faults.

    Attributes:
        repos: Repositories by ``'owner/name'``.
        blobs: LFS uploads by sha256.
        requests: Method and path of every request.
        faults: Status codes to return, by pattern of ``'METHOD /path'``; each is used once.
        cut: Pattern of requests whose connection is closed in the middle of the request body.
        damage: Path of a file that is served with one byte changed.
        tokens: All Authorization headers received.
    """

    def __init__(self):
        self.repos, self.blobs, self.requests, self.tokens = {}, {}, [], set()
        self.faults = collections.defaultdict(list)
        self.cut, self.damage = None, None
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f'http://127.0.0.1:{self.server.server_address[1]}'

    def fault(self, line):
        for pattern, codes in self.faults.items():
            if codes and re.search(pattern, line):
                return codes.pop(0)
        return None

    def count(self, pattern):
        return sum(bool(re.search(pattern, line)) for line in self.requests)

    def environment(self, home, **more):
        """Return the environment variables of a client with the cache ``home``."""
        return dict(
            HF_ENDPOINT=self.url,
            HF_HOME=str(home),
            HF_HUB_DISABLE_XET='1',
            HF_HUB_DISABLE_PROGRESS_BARS='1',
            HF_HUB_DISABLE_TELEMETRY='1',
            **more,
        )


@contextlib.contextmanager
def serve():
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def log_message(self, *args):
            pass

        def handle_any(self):
            url = urlsplit(self.path)
            path, query = unquote(url.path), parse_qs(url.query)
            line = f'{self.command} {path}'
            hub.requests.append(line)
            if 'Authorization' in self.headers:
                hub.tokens.add(self.headers['Authorization'])
            if hub.cut and re.search(hub.cut, line):
                self.rfile.read(max(1, int(self.headers['Content-Length']) // 2))
                self.close_connection = True
                self.connection.close()
                return
            self.body = self._read()
            status = hub.fault(line)
            if status is not None:
                return self.answer(status, {'error': f'fault {status}'})
            for method, pattern, function in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split():
                    return function(self, query, *match.groups())
            self.answer(404, {'error': f'not on this Hub: {line}'})

        do_GET = do_HEAD = do_POST = do_PUT = handle_any

        def _read(self):
            if self.headers.get('Transfer-Encoding') == 'chunked':
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b''.join(parts)
            return self.rfile.read(int(self.headers.get('Content-Length', 0)))

        @property
        def known(self):
            return self.headers.get('Authorization') == f'Bearer {TOKEN}'

        def answer(self, status, content=b'', **headers):
            if not isinstance(content, bytes):
                content = json.dumps(content).encode()
                headers.setdefault('Content-Type', 'application/json')
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace('_', '-'), value)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            if self.command != 'HEAD':
                self.wfile.write(content)

        def repo(self, name, write=False):
            """Return the repository, or None after sending an error response."""
            if not self.known and (write or name not in hub.repos or hub.repos[name].private):
                words = 'Invalid credentials in Authorization header' if write else 'Repository not found'
                self.answer(401, {'error': words}, X_Error_Code='RepoNotFound')
            elif name not in hub.repos:
                self.answer(404, {'error': 'Repository not found'}, X_Error_Code='RepoNotFound')
            elif write and name.split('/')[0] != OWNER:
                self.answer(403, {'error': 'Forbidden: you have no write access'}, X_Error_Message='no write access')
            else:
                return hub.repos[name]

        def whoami(self, query):
            if self.known:
                self.answer(200, {'type': 'user', 'name': OWNER, 'orgs': []})
            else:
                self.answer(401, {'error': 'Invalid token'})

        def create(self, query):
            request = json.loads(self.body)
            owner = request.get('organization') or OWNER
            name = f'{owner}/{request["name"]}'
            if not self.known:
                self.answer(401, {'error': 'Invalid token'})
            elif owner != OWNER:
                self.answer(403, {'error': f'you cannot create under {owner}'})
            else:
                status = 409 if name in hub.repos else 200
                if status == 200:
                    private = request.get('private') or request.get('visibility') == 'private'
                    hub.repos[name] = Repo(private=bool(private))
                    hub.repos[name].commit('main', {'.gitattributes': b''})
                self.answer(status, {'url': f'{hub.url}/{name}', 'name': name})

        def validate(self, query):
            errors = [{'message': words} for words in _errors(json.loads(self.body)['content'])]
            self.answer(400 if errors else 200, {'errors': errors, 'warnings': []})

        def info(self, query, name, revision=None):
            repo = self.repo(name)
            if repo is not None:
                commit = repo.resolve(revision or 'main')
                if commit is None:
                    return self.answer(404, {'error': 'Revision Not Found'}, X_Error_Code='RevisionNotFound')
                siblings = [{'rfilename': path} for path in repo.commits[commit]]
                self.answer(200, {'id': name, 'sha': commit, 'siblings': siblings, 'private': repo.private, 'tags': []})

        def branch(self, query, name, branch):
            repo = self.repo(name, write=True)
            if repo is not None:
                status = 409 if branch in repo.refs else 200
                repo.refs.setdefault(branch, repo.refs['main'])
                self.answer(status, {'error': 'Reference already exists'} if status == 409 else {})

        def preupload(self, query, name, revision):
            repo = self.repo(name, write='create_pr' not in query)
            if repo is not None:
                tree = repo.commits.get(repo.resolve(revision), {})
                files = [
                    {
                        'path': file['path'],
                        'uploadMode': 'lfs' if file['path'].endswith('.safetensors') else 'regular',
                        'shouldIgnore': False,
                        'oid': _oid(file['path'], tree.get(file['path'])),
                    }
                    for file in json.loads(self.body)['files']
                ]
                self.answer(200, {'files': files})

        def lfs(self, query, name):
            objects = []
            for item in json.loads(self.body)['objects']:
                action = {'oid': item['oid'], 'size': item['size']}
                if item['oid'] not in hub.blobs:
                    places = {'upload': f'{hub.url}/lfs/{item["oid"]}', 'verify': f'{hub.url}/lfs-verify'}
                    action['actions'] = {kind: {'href': href, 'header': {}} for kind, href in places.items()}
                objects.append(action)
            self.answer(200, {'transfer': 'basic', 'objects': objects})

        def store(self, query, oid):
            if hashlib.sha256(self.body).hexdigest() != oid:
                return self.answer(400, {'error': 'sha256 differs'})
            hub.blobs[oid] = self.body
            self.answer(200)

        def verify(self, query):
            self.answer(200 if json.loads(self.body)['oid'] in hub.blobs else 404, {})

        def commit(self, query, name, revision):
            pull_request = 'create_pr' in query
            repo = self.repo(name, write=not pull_request)
            if repo is None:
                return
            files = {}
            for line in self.body.splitlines():
                item = json.loads(line)
                value = item['value']
                if item['key'] == 'file':
                    files[value['path']] = base64.b64decode(value['content'])
                elif item['key'] == 'lfsFile':
                    if value['oid'] not in hub.blobs:
                        return self.answer(400, {'error': f'{value["path"]} was not uploaded'})
                    files[value['path']] = hub.blobs[value['oid']]
            ref = 'refs/pr/1' if pull_request else revision
            oid = repo.commit(ref, files)
            answer = {'success': True, 'commitOid': oid, 'commitUrl': f'{hub.url}/{name}/commit/{oid}'}
            if pull_request:
                answer['pullRequestUrl'] = f'{hub.url}/{name}/discussions/1'
            self.answer(200, answer)

        def resolve(self, query, name, revision, path):
            repo = self.repo(name)
            if repo is None:
                return
            commit = repo.resolve(revision)
            if commit is None:
                return self.answer(404, {'error': 'Revision Not Found'}, X_Error_Code='RevisionNotFound')
            content = repo.commits[commit].get(path)
            if content is None:
                return self.answer(404, b'', X_Error_Code='EntryNotFound', X_Repo_Commit=commit)
            etag = hashlib.sha256(content).hexdigest()
            if path == hub.damage:
                content = content[:-1] + bytes([content[-1] ^ 1])
            start = re.fullmatch('bytes=([0-9]+)-', self.headers.get('Range', ''))
            headers = {'ETag': f'"{etag}"', 'X-Repo-Commit': commit}
            if start:
                headers['Content-Range'] = f'bytes {start[1]}-{len(content) - 1}/{len(content)}'
            self.answer(206 if start else 200, content[int(start[1]) if start else 0 :], **headers)

    routes = {
        'GET /api/whoami-v2': Handler.whoami,
        'POST /api/repos/create': Handler.create,
        'POST /api/validate-yaml': Handler.validate,
        'POST /api/models/([^/]+/[^/]+)/branch/(.+)': Handler.branch,
        'POST /api/models/([^/]+/[^/]+)/preupload/(.+)': Handler.preupload,
        'POST /api/models/([^/]+/[^/]+)/commit/(.+)': Handler.commit,
        'GET /api/models/([^/]+/[^/]+)': Handler.info,
        'GET /api/models/([^/]+/[^/]+)/revision/(.+)': Handler.info,
        'POST /([^/]+/[^/]+).git/info/lfs/objects/batch': Handler.lfs,
        'PUT /lfs/([0-9a-f]{64})': Handler.store,
        'POST /lfs-verify': Handler.verify,
        'GET,HEAD /([^/]+/[^/]+)/resolve/(refs/pr/[0-9]+|[^/]+)/(.+)': Handler.resolve,
    }
    _ROUTES = [(*key.replace(',', ' ').rsplit(' ', 1), function) for key, function in routes.items()]
    return Handler


#: Some of the Hub's licenses.
LICENSES = ('apache-2.0', 'mit', 'cc-by-4.0', 'cc0-1.0', 'bsd-3-clause', 'other', 'unknown')


def _errors(content):
    """Return the Hub's errors for the front matter of a model card."""
    if not content.startswith('---\n'):
        return ['no front matter']
    data = yaml.safe_load(content.split('---\n')[1])
    errors = []
    if 'license' in data and data['license'] not in LICENSES:
        errors.append(f'"license" must be one of {", ".join(LICENSES)}')
    for key in ('datasets', 'base_model'):
        values = data.get(key, [])
        for value in [values] if isinstance(values, str) else values:
            if not re.fullmatch(r'[\w.-]+(/[\w.-]+)?', str(value)) or value == 'unknown':
                errors.append(f'"{key}[0]" with value "{value}" is not valid. Use a name of the Hub')
    for model in data.get('model-index', []):
        for result in model['results']:
            if not (model['name'] and result['task']['type'] and result['dataset']['name']):
                errors.append('"model-index" lacks a name')
            if not re.fullmatch(r'[\w./-]+', result['dataset']['type']):
                errors.append('"model-index[0].results[0].dataset.type" is not valid')
            if not all(metric['type'] and isinstance(metric['value'], (int, float)) for metric in result['metrics']):
                errors.append('"model-index[0].results[0].metrics[0]" is not valid')
    return errors


def _oid(path, content):
    """Return the object id in git or LFS; the client skips files whose id is unchanged."""
    if content is None:
        return None
    if path.endswith('.safetensors'):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()
