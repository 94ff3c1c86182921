/** A gateway that plays the contract in memory, its failures too. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocketServer } from 'ws';

export const KEY = 'bj_test_key';

export interface Seen {
  method: string;
  path: string;
  query: URLSearchParams;
  headers: IncomingMessage['headers'];
  body: Buffer;
}

/** What happens to the next request instead of its answer; `drop`: the connection breaks before or after it is handled. */
export interface Fault {
  status?: number;
  body?: string;
  headers?: Record<string, string>;
  drop?: 'before' | 'after';
}

interface FakeProcess {
  output: [string, Buffer][];
  exit: object;
  order: Record<string, unknown>;
  stdin: string;
  eof: boolean;
  signals: unknown[];
  killed: boolean;
}

interface FakeSandbox {
  info: Record<string, unknown> & { id: string; metadata: Record<string, string>; template: string };
  files: Map<string, Buffer>;
  directories: Set<string>;
  processes: Map<number, FakeProcess>;
  ptys: Map<string, { size: unknown[]; order: Record<string, unknown> }>;
}

class Refused extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

class Event {
  #set = () => {};
  readonly happened = new Promise<void>((resolve) => {
    this.#set = resolve;
  });
  set(): void {
    this.#set();
  }
}

export class FakeGateway {
  readonly sandboxes = new Map<string, FakeSandbox>();
  readonly byKey = new Map<string, FakeSandbox>();
  readonly seen: Seen[] = [];
  readonly faults: Fault[] = [];
  /** After how many events the next streams end, or break. */
  readonly breakAfter: number[] = [];
  breakHard = false;
  /** A program's client went away before the program had ended. */
  readonly abandoned = new Event();
  /** A request that is told to wait has arrived, and may go on. */
  readonly arrived = new Event();
  readonly goOn = new Event();
  holdCreates = false;
  failUpgrades = false;
  mostEntries = 10_000;
  readonly #http = createServer((request, response) => void this.#handle(request, response));
  readonly #sockets = new WebSocketServer({ noServer: true });

  async start(): Promise<this> {
    this.#http.on('upgrade', (request, socket, head) => {
      const url = new URL(request.url ?? '', 'http://x');
      const pty = url.pathname.split('/').at(-1) ?? '';
      const known = [...this.sandboxes.values()].some((sandbox) => sandbox.ptys.has(pty));
      if (!known || this.failUpgrades || url.searchParams.get('api_key') !== KEY) {
        socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n');
        return;
      }
      this.#sockets.handleUpgrade(request, socket, head, (echo) => {
        echo.send(Buffer.from('$ '));
        echo.on('message', (data: Buffer) => {
          if (data.toString() === 'exit\n') echo.close(1000);
          else if (data.toString() === 'break\n') echo.terminate();
          else if (data.toString() === 'stop\n') echo.close(1001, 'sandbox_ended');
          else echo.send(data);
        });
      });
    });
    this.#http.listen(0, '127.0.0.1');
    await once(this.#http, 'listening');
    return this;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#http.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.goOn.set();
    for (const socket of this.#sockets.clients) socket.terminate();
    const closed = once(this.#http, 'close');
    this.#http.close();
    this.#http.closeAllConnections();
    await closed;
  }

  requests(method: string, end = ''): Seen[] {
    return this.seen.filter((seen) => seen.method === method && seen.path.endsWith(end));
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '', 'http://x');
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of request) chunks.push(chunk);
    } catch {
      return;
    }
    const seen: Seen = {
      method: request.method ?? '',
      path: decodeURIComponent(url.pathname),
      query: url.searchParams,
      headers: request.headers,
      body: Buffer.concat(chunks),
    };
    this.seen.push(seen);
    const fault = this.faults.shift();
    if (fault?.drop === 'before') return void request.socket.destroy();
    if (fault !== undefined && fault.drop === undefined) {
      response.writeHead(fault.status ?? 503, fault.headers ?? {});
      return void response.end(fault.body ?? '{"error":"unavailable","message":"Not now."}');
    }
    const answer = (status: number, value?: unknown, headers: Record<string, string> = {}) => {
      if (fault?.drop === 'after') return void request.socket.destroy();
      const body = value === undefined || Buffer.isBuffer(value) ? value : JSON.stringify(value);
      response.writeHead(status, headers);
      response.end(body);
    };
    try {
      await this.#route(seen, answer, request, response);
    } catch (error) {
      const refused = error instanceof Refused ? error : new Refused(500, 'internal', String(error));
      const problem = { error: refused.code, detail: refused.message, message: refused.message };
      answer(refused.status, problem, { 'Content-Type': 'application/problem+json' });
    }
  }

  async #route(seen: Seen, answer: Answer, request: IncomingMessage, response: ServerResponse) {
    const key = seen.headers.authorization;
    if (key === undefined) throw new Refused(401, 'key_missing', 'This needs a key.');
    if (key !== `Bearer ${KEY}`) throw new Refused(403, 'key_refused', 'This key is not known.');
    const [root, id, ...rest] = seen.path.replace('/api/v1/', '').split('/');
    const { method, query } = seen;
    if (root === 'templates') {
      const template = { name: 'base', image: 'belljar-sandbox:latest' };
      if (method === 'DELETE') return answer(204);
      if (method === 'POST') return answer(201, { ...JSON.parse(seen.body.toString()), status: 'ready' });
      if (id !== undefined && id !== 'base') throw new Refused(404, 'no_such_template', 'No such template.');
      return answer(200, id === undefined ? [template] : template);
    }
    if (id === undefined && method === 'POST') return this.#create(seen, answer);
    if (id === undefined) {
      const all = [...this.sandboxes.values()].filter((sandbox) =>
        [...query].every(
          ([name, value]) => !name.startsWith('metadata.') || sandbox.info.metadata[name.slice(9)] === value,
        ),
      );
      const start = Number(query.get('cursor') ?? 0);
      const end = start + Math.min(2, Number(query.get('limit') ?? 2));
      const link = `<http://elsewhere.invalid/?a=1,2&cursor=${end}>; rel="next"`;
      const page = all.slice(start, end).map((sandbox) => sandbox.info);
      return answer(200, page, end < all.length ? { Link: link } : {});
    }
    const sandbox = this.sandboxes.get(id);
    if (sandbox === undefined) throw new Refused(404, 'sandbox_not_found', 'There is no such sandbox.');
    const order = () => JSON.parse(seen.body.toString());
    const events = (list: AsyncIterable<[string, object]>) => this.#events(list, request, response);
    switch (`${method} ${rest[0] ?? ''}`) {
      case 'GET ':
        return answer(200, sandbox.info);
      case 'DELETE ':
        this.sandboxes.delete(id);
        return answer(204);
      case 'POST timeout':
        sandbox.info.timeout = order().timeout;
        return answer(204);
      case 'POST actions':
        sandbox.info.status = order().action === 'stop' ? 'stopped' : 'running';
        return answer(200, sandbox.info);
      case 'GET stats':
        return answer(200, { cpuMs: 12, memoryBytes: 1 << 20 });
      case 'POST code':
        return answer(200, result({ stdout: `${order().language}: ${order().code}\n` }));
      case 'POST commands':
        return this.#command(order(), sandbox, answer, events, request);
    }
    if (rest[0] === 'processes') return this.#process(seen, sandbox, rest.slice(1), answer, events);
    if (rest[0] === 'files') return this.#files(seen, sandbox, rest[1] ?? '', answer, events, request);
    if (rest[0] === 'pty') return this.#pty(seen, sandbox, rest.slice(1), answer);
    throw new Refused(404, 'no_route', 'There is nothing at this address.');
  }

  async #create(seen: Seen, answer: Answer): Promise<void> {
    const order = JSON.parse(seen.body.toString());
    if (order.template === 'nothing') throw new Refused(400, 'no_such_template', 'template: there is none.');
    const key = String(seen.headers['idempotency-key']);
    let sandbox = this.byKey.get(key);
    if (sandbox === undefined) {
      sandbox = {
        info: {
          id: crypto.randomUUID(),
          template: order.template ?? 'base',
          status: 'running',
          createdAt: '2030-01-02T03:04:05.123456789Z',
          metadata: order.metadata ?? {},
          memoryMB: order.memoryMB ?? 128,
          timeout: order.timeout ?? 300,
        },
        files: new Map(),
        directories: new Set(['/tmp']),
        processes: new Map(),
        ptys: new Map(),
      };
      this.byKey.set(key, sandbox);
      this.sandboxes.set(sandbox.info.id, sandbox);
    }
    if (this.holdCreates) {
      this.arrived.set();
      await this.goOn.happened;
    }
    answer(201, sandbox.info);
  }

  async #events(list: AsyncIterable<[string, object]>, request: IncomingMessage, response: ServerResponse) {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    response.write(': hello\n\n');
    let left = this.breakAfter.shift() ?? -1;
    for await (const [name, data] of list) {
      // A fetch that is broken off forgets what it has taken already; one that merely ends does not.
      if (left-- === 0) return void (this.breakHard ? request.socket.destroy() : response.end());
      const event = Buffer.from(`event: ${name}\r\ndata: ${JSON.stringify(data)}\r\n\r\n`);
      // In two pieces, wherever that cuts it.
      response.write(event.subarray(0, event.length / 2));
      await sleep(1);
      response.write(event.subarray(event.length / 2));
    }
    response.end();
  }

  async #leaving(request: IncomingMessage): Promise<void> {
    this.arrived.set();
    await once(request.socket, 'close');
    this.abandoned.set();
  }

  async #command(
    order: Record<string, unknown>,
    sandbox: FakeSandbox,
    answer: Answer,
    events: Eventing,
    request: IncomingMessage,
  ) {
    const [output, exit] = play(order);
    if (order.mode === 'background') {
      const process = sandbox.processes.size + 1;
      const state = { stdin: '', eof: false, signals: [], killed: false };
      sandbox.processes.set(process, { output, exit, order, ...state });
      return answer(202, { process });
    }
    if (order.mode === 'stream') {
      const leaving = () => this.#leaving(request);
      return events(
        (async function* () {
          yield ['start', { process: 1 }];
          for (const [name, data] of output) yield [name, encoded(data)];
          if (order.command === 'sleep') return leaving();
          yield ['something-new', { to: 'be passed over' }];
          yield ['exit', result(exit)];
        })(),
      );
    }
    if (order.command === 'sleep') return this.#leaving(request);
    const said = (name: string) =>
      Buffer.concat(output.filter(([one]) => one === name).map(([, data]) => data)).toString();
    return answer(200, result({ ...exit, stdout: said('stdout'), stderr: said('stderr') }));
  }

  async #process(seen: Seen, sandbox: FakeSandbox, rest: string[], answer: Answer, events: Eventing) {
    const info = (id: number, process: FakeProcess) => ({
      process: id,
      command: process.order.command,
      outputStart: 4,
      outputEnd: process.output.reduce((sum, [, data]) => sum + data.length, 0),
      running: !process.killed,
      ...(process.killed ? process.exit : {}),
    });
    const [number, what = ''] = rest;
    if (number === undefined)
      return answer(
        200,
        [...sandbox.processes].map(([id, one]) => info(id, one)),
      );
    const process = sandbox.processes.get(Number(number));
    if (process === undefined) throw new Refused(404, 'no_process', 'There is no such process.');
    switch (`${seen.method} ${what}`) {
      case 'GET ':
        return answer(200, info(Number(number), process));
      case 'DELETE ':
        process.exit = { exitCode: 137, signal: 'SIGKILL' };
        process.killed = true;
        return answer(204);
      case 'POST signal':
        process.signals.push(JSON.parse(seen.body.toString()).signal);
        return answer(204);
      case 'POST stdin':
        if (!process.order.stdin) throw new Refused(409, 'no_stdin', 'This process reads nothing.');
        process.stdin += seen.body.toString();
        process.eof = seen.query.get('eof') === 'true';
        return answer(204);
      case 'GET output': {
        const from = Math.max(4, Number(seen.query.get('from')));
        const stdout = Buffer.concat(process.output.map(([, data]) => data))
          .subarray(from)
          .toString();
        if (seen.query.get('follow') !== 'true') {
          const shown = info(Number(number), process);
          return answer(200, { ...shown, stdout, stderr: '', from, offset: shown.outputEnd });
        }
        return events(
          (async function* () {
            let start = Number(seen.query.get('from'));
            yield ['start', { process: 1 }];
            // The first 4 bytes have left the ring already.
            if (start < 4) yield ['gap', { from: start, to: 4 }];
            start = Math.max(start, 4);
            let at = 0;
            for (const [name, data] of process.output) {
              if (at + data.length > start) {
                yield [
                  name,
                  { ...encoded(data.subarray(Math.max(0, start - at))), offset: at + data.length },
                ];
              }
              at += data.length;
            }
            yield ['exit', result(process.exit)];
          })(),
        );
      }
    }
  }

  async #files(
    seen: Seen,
    sandbox: FakeSandbox,
    route: string,
    answer: Answer,
    events: Eventing,
    request: IncomingMessage,
  ) {
    const { files, directories } = sandbox;
    const path = seen.query.get('path') ?? '';
    const info = (path: string) => ({
      name: path.slice(path.lastIndexOf('/') + 1),
      path,
      kind: directories.has(path) ? 'directory' : 'file',
      size: files.get(path)?.length ?? 0,
      mode: '0644',
      modifiedMs: 1893553445000,
    });
    const known = () => {
      if (!files.has(path) && !directories.has(path))
        throw new Refused(404, 'not_found', `There is no ${path}.`);
      return files.get(path) ?? Buffer.of();
    };
    const below = () => [...files.keys()].filter((name) => name.startsWith(`${path}/`)).sort();
    switch (`${seen.method} ${route}`) {
      case 'GET ':
      case 'GET archive': {
        const start = Number(seen.query.get('offset') ?? 0);
        const length = Number(seen.query.get('length') ?? known().length);
        return answer(200, known().subarray(start, start + length));
      }
      case 'PUT ':
      case 'PUT archive':
        if (seen.body.length > 1 << 20) throw new Refused(507, 'no_space', 'The disk is full.');
        files.set(path, seen.body);
        return answer(204);
      case 'DELETE ':
        if (below().length > 0 && seen.query.get('recursive') !== 'true') {
          throw new Refused(409, 'not_empty', `${path} is not empty.`);
        }
        for (const name of [...below(), path]) files.delete(name);
        return answer(204);
      case 'GET stat':
        known();
        return answer(200, info(path));
      case 'GET list':
      case 'GET glob': {
        const most = Math.min(Number(seen.query.get('limit')), this.mostEntries);
        const headers = { 'X-Truncated': String(below().length > most) };
        return answer(200, below().slice(0, most).map(info), headers);
      }
      case 'POST mkdir':
        directories.add(path);
        return answer(204);
      case 'POST move': {
        const { from, to } = JSON.parse(seen.body.toString());
        files.set(to, files.get(from) ?? Buffer.of());
        files.delete(from);
        return answer(204);
      }
      case 'GET watch': {
        const leaving = () => this.#leaving(request);
        return events(
          (async function* () {
            yield ['ready', {}];
            yield ['created', { path: `${path}/a`, isDir: false }];
            yield ['renamed', { from: `${path}/a`, path: `${path}/b`, isDir: true }];
            await leaving();
          })(),
        );
      }
    }
  }

  #pty(seen: Seen, sandbox: FakeSandbox, [pty = '', what = '']: string[], answer: Answer) {
    const order = () => JSON.parse(seen.body.toString());
    const known = sandbox.ptys.get(pty);
    if (seen.method === 'POST' && pty === '') {
      const id = crypto.randomUUID();
      sandbox.ptys.set(id, { size: [order().cols, order().rows], order: order() });
      return answer(201, { sessionID: id, id, sandboxID: sandbox.info.id });
    }
    if (known === undefined) throw new Refused(404, 'no_such_pty', 'There is no such terminal.');
    if (what === 'resize') known.size = [order().cols, order().rows];
    else sandbox.ptys.delete(pty);
    return answer(204);
  }
}

type Answer = (status: number, value?: unknown, headers?: Record<string, string>) => void;
type Eventing = (list: AsyncIterable<[string, object]>) => Promise<void>;

/** What a program says, and how it ends. */
function play(order: Record<string, unknown>): [[string, Buffer][], object] {
  const line = Array.isArray(order.command) ? order.command.join(' ') : String(order.command);
  if (line.startsWith('echo ')) return [[['stdout', Buffer.from(`${line.slice(5)}\n`)]], { exitCode: 0 }];
  switch (line) {
    case 'cat':
      return [[['stdout', Buffer.from(String(order.stdin))]], { exitCode: 0 }];
    case 'env':
      return [
        [['stdout', Buffer.from(JSON.stringify([order.env, order.cwd, order.timeout]))]],
        { exitCode: 0 },
      ];
    case 'both':
      return [
        [
          ['stdout', Buffer.from('out')],
          ['stderr', Buffer.from('err')],
        ],
        { exitCode: 3 },
      ];
    case 'split':
      return [
        [
          ['stdout', Buffer.from('caf\xc3', 'latin1')],
          ['stderr', Buffer.from('!')],
          ['stdout', Buffer.from('\xa9\xff\xe2', 'latin1')],
        ],
        { exitCode: 0 },
      ];
    case 'slow':
      return [[], { exitCode: 124, timedOut: true }];
    default:
      return [[['stdout', Buffer.from('...')]], { exitCode: 0 }];
  }
}

function encoded(data: Buffer): object {
  const text = data.toString();
  return Buffer.from(text).equals(data) ? { data: text } : { dataBase64: data.toString('base64') };
}

function result(fields: object): object {
  return { exitCode: 0, signal: null, stdout: '', stderr: '', timedOut: false, truncated: false, ...fields };
}
