import { openAsBlob } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  AtCapacity,
  AuthError,
  Client,
  type CommandEvent,
  CommandFailed,
  ConnectionFailed,
  check,
  FileError,
  InvalidRequest,
  NotFound,
  NotRunning,
  RateLimited,
  RequestTimeout,
  Sandbox,
  ServerError,
  TooLarge,
  UnexpectedAnswer,
} from '../src/index.js';
import { FakeGateway, KEY } from './fake.js';

vi.mock('../src/retry.js', async (original) => {
  const retry = await original<typeof import('../src/retry.js')>();
  // Waiting is tested in pure.test.ts; here it would only take time.
  return {
    ...retry,
    delay: (attempt: number, after?: number) => {
      const seconds = retry.delay(attempt, after);
      return seconds && seconds / 1000;
    },
  };
});

let gateway: FakeGateway;

beforeEach(async () => {
  gateway = await new FakeGateway().start();
  vi.stubEnv('BELLJAR_URL', gateway.url);
  vi.stubEnv('BELLJAR_API_KEY', KEY);
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await gateway.stop();
});

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

const bytes = (text: string) => new Uint8Array(Buffer.from(text, 'latin1'));
const first = () => {
  const [sandbox] = gateway.sandboxes.values();
  if (sandbox === undefined) throw new Error('there is no sandbox');
  return sandbox;
};

describe('sandboxes', () => {
  test('every option reaches the gateway, and kill ends it', async () => {
    const sb = await Sandbox.create({
      image: 'debian',
      timeout: 60,
      env: { A: '1' },
      metadata: { user: 'ann' },
      cpus: 2,
      memory: '512Mi',
      cwd: '/tmp',
    });
    const [seen] = gateway.requests('POST', '/sandboxes');
    expect(JSON.parse(String(seen?.body))).toEqual({
      image: 'debian',
      timeout: 60,
      env: { A: '1' },
      metadata: { user: 'ann' },
      cpus: 2,
      memory: '512Mi',
      cwd: '/tmp',
    });
    const info = await sb.info();
    expect(info.metadata).toEqual({ user: 'ann' });
    expect(info.createdAt?.getUTCMilliseconds()).toBe(123);
    await sb.kill();
    await sb.kill();
    expect(gateway.sandboxes.size).toBe(0);
    await expect(Sandbox.connect(sb.id)).rejects.toThrow(NotFound);
  });

  test('one that is made is killed at the end of its block, one that was found is not', async () => {
    const made = await Sandbox.create({ memory: 256 });
    const found = await Sandbox.connect(made.id);
    expect((await found.info()).memoryMB).toBe(256);
    await found[Symbol.asyncDispose]();
    expect(gateway.sandboxes.has(made.id)).toBe(true);
    await made[Symbol.asyncDispose]();
    expect(gateway.sandboxes.size).toBe(0);
  });

  test('a list follows the pages, but never to another host', async () => {
    const client = new Client();
    const made: string[] = [];
    for (const n of [0, 1, 0, 1, 0]) {
      made.push((await Sandbox.create({ metadata: { n: String(n) }, client })).id);
    }
    expect((await Sandbox.list({ client })).map((info) => info.id)).toEqual(made);
    expect(await Sandbox.list({ metadata: { n: '1' } })).toHaveLength(2);
    expect(await Sandbox.list({ limit: 3 })).toHaveLength(3);
  });

  test('timeout, stats, stop, restart, templates, ports', async () => {
    const sb = await Sandbox.create();
    await sb.setTimeout(900);
    expect((await sb.info()).timeout).toBe(900);
    expect(await sb.stats()).toMatchObject({ cpuMs: 12, memoryBytes: 1 << 20, homeUsed: undefined });
    expect((await sb.stop()).status).toBe('stopped');
    expect((await sb.restart()).status).toBe('running');
    const { templates } = sb.client;
    expect((await templates.list()).map((template) => template.name)).toEqual(['base']);
    expect((await templates.build('mine', 'FROM scratch')).status).toBe('ready');
    await templates.delete('mine');
    await expect(templates.get('a/b')).rejects.toThrow(NotFound);
    const place = `${gateway.url}/api/v1/sandboxes/${sb.id}/ports/8000`;
    expect(sb.ports.url(8000, '/a b?c=1')).toBe(`${place}/a%20b?c=1`);
    expect(sb.ports.webSocketUrl(8000)).toBe(`${place.replace('http', 'ws')}/`);
    expect(sb.ports.headers).toEqual({ Authorization: `Bearer ${KEY}` });
    expect(() => sb.ports.url(0)).toThrow(RangeError);
  });

  test('a create that is aborted leaves no sandbox', async () => {
    gateway.holdCreates = true;
    const abort = new AbortController();
    const creating = Sandbox.create({ signal: abort.signal });
    creating.catch(() => undefined);
    await gateway.arrived.happened;
    abort.abort();
    gateway.goOn.set();
    await expect(creating).rejects.toThrow('aborted');
    expect(gateway.requests('DELETE')).toHaveLength(1);
    expect(gateway.sandboxes.size).toBe(0);
  });
});

describe('errors and retries', () => {
  test('an order that is refused, no key, and the wrong one', async () => {
    await expect(Sandbox.create({ template: 'nothing' })).rejects.toThrow(InvalidRequest);
    expect(gateway.seen).toHaveLength(1);
    const client = new Client({ apiKey: 'wrong' });
    await expect(Sandbox.list({ client })).rejects.toMatchObject({ name: 'AuthError', status: 403 });
    vi.stubEnv('BELLJAR_API_KEY', '');
    await expect(Sandbox.list()).rejects.toThrow(AuthError);
    expect(JSON.stringify(new Client({ apiKey: 'secret' }))).not.toContain('secret');
  });

  test('a create that is repeated makes one sandbox', async () => {
    gateway.faults.push({ headers: { 'Retry-After': '0' } }, { drop: 'before' }, { drop: 'after' });
    const sb = await Sandbox.create();
    const seen = gateway.requests('POST');
    expect(seen).toHaveLength(4);
    expect(new Set(seen.map((request) => request.headers['idempotency-key'])).size).toBe(1);
    expect([...gateway.sandboxes.keys()]).toEqual([sb.id]);
  });

  test('retries end', async () => {
    const fault = { body: '{"error":"at_capacity","message":"Every place is taken."}' };
    gateway.faults.push(...Array(5).fill(fault));
    await expect(Sandbox.create()).rejects.toThrow(AtCapacity);
    expect(gateway.seen).toHaveLength(4);
    await expect(Sandbox.create({ client: new Client({ retries: 0 }) })).rejects.toThrow('Every place');
    expect(gateway.seen).toHaveLength(5);
  });

  test('a longer wait than is bearable is told at once', async () => {
    gateway.faults.push({ status: 429, headers: { 'Retry-After': '3600' } });
    const error = await Sandbox.list().catch((error) => error);
    expect(error).toBeInstanceOf(RateLimited);
    expect(error.retryAfter).toBe(3600);
    expect(gateway.seen).toHaveLength(1);
  });

  test('a retry that is waited for ends with its signal', async () => {
    gateway.faults.push({ headers: { 'Retry-After': '30' } });
    vi.useFakeTimers({ toFake: ['setTimeout'] });
    try {
      const abort = new AbortController();
      const listing = Sandbox.list({ signal: abort.signal });
      listing.catch(() => undefined);
      await vi.waitUntil(() => gateway.seen.length === 1);
      abort.abort();
      await expect(listing).rejects.toThrow('aborted');
    } finally {
      vi.useRealTimers();
    }
    expect(gateway.seen).toHaveLength(1);
  });

  test('what may not be repeated is not', async () => {
    const sb = await Sandbox.create();
    for (const [fault, kind] of [
      [{ status: 503 }, ServerError],
      [{ status: 429 }, RateLimited],
      [{ drop: 'after' }, ConnectionFailed],
    ] as const) {
      const before = gateway.seen.length;
      gateway.faults.push(fault);
      await expect(sb.commands.run('echo once')).rejects.toThrow(kind);
      expect(gateway.seen).toHaveLength(before + 1);
    }
  });

  test("a proxy's page is an error by its status", async () => {
    gateway.faults.push({ status: 502, body: '<html>Bad Gateway</html>' });
    await expect(Sandbox.list()).rejects.toThrow('502');
    for (const body of ['<html>welcome</html>', '', '{}', '[1]', '[{"id":7}]']) {
      gateway.faults.push({ status: 200, body });
      await expect(Sandbox.list()).rejects.toThrow(UnexpectedAnswer);
    }
    gateway.faults.push({ status: 307, headers: { Location: 'http://elsewhere.invalid/' } });
    await expect(Sandbox.list({ client: new Client({ retries: 0 }) })).rejects.toThrow(ConnectionFailed);
  });

  test('nobody there, and somebody who does not answer', async () => {
    const client = new Client({ url: 'http://127.0.0.1:1', retries: 1 });
    await expect(Sandbox.list({ client })).rejects.toThrow(ConnectionFailed);
    gateway.holdCreates = true;
    const given: typeof fetch = (_, init) =>
      new Promise((_, reject) => {
        init?.signal?.addEventListener('abort', () => reject(init.signal?.reason));
      });
    const hasty = new Client({ timeout: 0.01, fetch: given });
    await expect(Sandbox.list({ client: hasty })).rejects.toThrow(RequestTimeout);
  });
});

describe('commands', () => {
  test('run', async () => {
    const sb = await Sandbox.create();
    const result = await sb.commands.run('echo hello');
    expect(result).toMatchObject({ stdout: 'hello\n', stderr: '', exitCode: 0, signal: undefined });
    expect(check(result)).toBe(result);
    expect((await sb.commands.run(['echo', 'a', 'b'])).stdout).toBe('a b\n');
    expect((await sb.commands.run('cat', { stdin: 'typed' })).stdout).toBe('typed');
    const options = { env: { A: '1' }, cwd: '/tmp', timeout: 5 };
    expect(JSON.parse((await sb.commands.run('env', options)).stdout)).toEqual([{ A: '1' }, '/tmp', 5]);
    const failed = await sb.commands.run('both');
    expect(failed).toMatchObject({ stdout: 'out', stderr: 'err', exitCode: 3 });
    expect(() => check(failed)).toThrow(CommandFailed);
    expect(await sb.commands.run('slow')).toMatchObject({ timedOut: true, exitCode: 124 });
    expect((await sb.runCode('1', 'node')).stdout).toBe('node: 1\n');
  });

  test('an aborted command lets go of its connection', async () => {
    const sb = await Sandbox.create();
    const abort = new AbortController();
    const running = sb.commands.run('sleep', { signal: abort.signal });
    running.catch(() => undefined);
    await gateway.arrived.happened;
    abort.abort();
    await expect(running).rejects.toThrow('aborted');
    await gateway.abandoned.happened;
  });

  test('a stream gives each event, and whole characters', async () => {
    const sb = await Sandbox.create();
    expect(await all(sb.commands.stream('both'))).toEqual([
      { type: 'start', process: 1 },
      { type: 'stdout', data: bytes('out'), text: 'out', end: undefined },
      { type: 'stderr', data: bytes('err'), text: 'err', end: undefined },
      { type: 'exit', exitCode: 3, signal: undefined, timedOut: false },
    ]);
    let text = '';
    let data = '';
    for await (const event of sb.commands.stream('split')) {
      if (event.type !== 'stdout') continue;
      text += event.text;
      data += Buffer.from(event.data).toString('latin1');
    }
    expect(text).toBe('café\ufffd\ufffd');
    expect(data).toBe('caf\xc3\xa9\xff\xe2');
  });

  test('a loop that is left lets go of its command, and so does a signal', async () => {
    const sb = await Sandbox.create();
    const stream = sb.commands.stream('sleep');
    for await (const event of stream) if (event.type === 'stdout') break;
    await gateway.abandoned.happened;
    expect(await all(stream)).toEqual([]);
    const abort = new AbortController();
    const reading = (async () => {
      for await (const event of sb.commands.stream('sleep', { signal: abort.signal })) {
        if (event.type === 'stdout') abort.abort();
      }
    })();
    await expect(reading).rejects.toThrow('aborted');
  });

  test.each([true, false])('a stream that breaks is not an end (hard: %s)', async (hard) => {
    const sb = await Sandbox.create();
    gateway.breakHard = hard;
    gateway.breakAfter.push(2);
    const seen: CommandEvent[] = [];
    const reading = (async () => {
      for await (const event of sb.commands.stream('both')) seen.push(event);
    })();
    await expect(reading).rejects.toThrow(ConnectionFailed);
    expect(gateway.requests('POST', '/commands')).toHaveLength(1);
  });

  test('background', async () => {
    const sb = await Sandbox.create();
    const process = await sb.commands.start('echo 12345678', { stdin: true });
    const rest = { type: 'stdout', data: bytes('5678\n'), text: '5678\n', end: 9 };
    const exit = { type: 'exit', exitCode: 0, signal: undefined, timedOut: false };
    expect(await all(process.output())).toEqual([{ type: 'gap', start: 0, end: 4 }, rest, exit]);
    expect(await process.read({ from: 6 })).toMatchObject({
      stdout: '78\n',
      start: 6,
      end: 9,
      exit: undefined,
    });
    expect(await process.wait()).toEqual(exit);
    expect((await process.info()).running).toBe(true);
    await process.writeStdin('a');
    await process.writeStdin(bytes('b'));
    await process.closeStdin();
    await process.signal('INT');
    expect(first().processes.get(1)).toMatchObject({ stdin: 'ab', eof: true, signals: ['INT'] });
    const before = gateway.seen.length;
    await process.writeStdin('x'.repeat(100_000));
    expect(gateway.seen.slice(before).map((seen) => seen.body.length)).toEqual([32768, 32768, 32768, 1696]);
    await process.kill();
    expect(await process.wait()).toMatchObject({ exitCode: 137, signal: 'SIGKILL' });
    expect(await sb.commands.list()).toMatchObject([{ id: 1, command: 'echo 12345678', running: false }]);
    await sb.commands.connect(99).kill();
    await expect(sb.commands.connect(99).info()).rejects.toThrow(NotFound);
  });

  test('output goes on where a connection broke', async () => {
    const sb = await Sandbox.create();
    const process = await sb.commands.start('split');
    gateway.breakAfter.push(2, 2);
    let data = '';
    for await (const event of process.output()) {
      if (event.type === 'stdout' || event.type === 'stderr')
        data += Buffer.from(event.data).toString('latin1');
    }
    expect(data).toBe('!\xa9\xff\xe2');
    expect(gateway.requests('GET', '/output').map((seen) => seen.query.get('from'))).toEqual(['0', '4', '5']);
  });
});

describe('files', () => {
  test('write, read, look, move, remove', async () => {
    const { files } = await Sandbox.create();
    await files.write('/tmp/ä b.py', "print('é')", { mode: 0o755 });
    expect(Object.fromEntries(gateway.requests('PUT')[0]?.query ?? [])).toEqual({
      path: '/tmp/ä b.py',
      mode: '755',
      mkdirs: 'true',
    });
    expect(await files.readText('/tmp/ä b.py')).toBe("print('é')");
    expect(await files.read('/tmp/ä b.py', { offset: 1, length: 4 })).toEqual(bytes('rint'));
    expect(await files.stat('/tmp/ä b.py')).toMatchObject({
      kind: 'file',
      size: 11,
      mode: 0o644,
      isDir: false,
    });
    expect((await files.list('/tmp')).map((file) => file.name)).toEqual(['ä b.py']);
    expect((await files.glob('*.py', '/tmp')).map((file) => file.name)).toEqual(['ä b.py']);
    await files.move('/tmp/ä b.py', '/tmp/d/c.py');
    expect(await files.exists('/tmp/d/c.py')).toBe(true);
    expect(await files.exists('/tmp/ä b.py')).toBe(false);
    await files.mkdir('/tmp/d');
    await expect(files.remove('/tmp/d')).rejects.toThrow(FileError);
    gateway.mostEntries = 1;
    await files.write('/tmp/x', '');
    expect(await files.list('/tmp', { limit: 1 })).toHaveLength(1);
    await expect(files.list('/tmp')).rejects.toThrow(TooLarge);
    await files.remove('/tmp/d', { recursive: true });
    expect(await files.exists('/tmp/d/c.py')).toBe(false);
    await files.write('/tmp/x', bytes('\xff'));
    await expect(files.readText('/tmp/x')).rejects.toThrow(TypeError);
    await expect(files.write('/tmp/big', new Uint8Array(2 << 20))).rejects.toThrow(TooLarge);
  });

  test('a file that is missing is not a sandbox that is', async () => {
    const sb = await Sandbox.create();
    await expect(sb.files.read('/tmp/none')).rejects.toThrow(NotFound);
    await sb.kill();
    await expect(sb.files.exists('/tmp/none')).rejects.toThrow('sandbox');
  });

  test('up and down, from a disk and from streams; a stream is not sent twice', async () => {
    const { files } = await Sandbox.create();
    const directory = await mkdtemp(join(tmpdir(), 'belljar-'));
    try {
      const data = crypto.getRandomValues(new Uint8Array(50_000));
      await writeFile(join(directory, 'f'), data);
      gateway.faults.push({ status: 503 });
      await files.upload(await openAsBlob(join(directory, 'f')), '/tmp/f');
      const pieces = await all((await files.download('/tmp/f')) as unknown as AsyncIterable<Uint8Array>);
      expect(Buffer.concat(pieces).equals(data)).toBe(true);
    } finally {
      await rm(directory, { recursive: true });
    }
    const pieces = async function* () {
      yield bytes('a');
      yield bytes('b');
    };
    await files.upload(pieces(), '/tmp/g');
    expect(await files.readText('/tmp/g')).toBe('ab');
    const before = gateway.seen.length;
    gateway.faults.push({ status: 503 });
    await expect(files.upload(pieces(), '/tmp/g')).rejects.toThrow('Not now');
    expect(gateway.seen).toHaveLength(before + 1);
    await files.unpack(bytes('a tar'), '/tmp/h');
    expect(await new Response(await files.pack('/tmp/h')).text()).toBe('a tar');
  });

  test('watch', async () => {
    const { files } = await Sandbox.create();
    const changes = [];
    for await (const change of files.watch('/tmp', { recursive: true })) {
      changes.push(change);
      if (changes.length === 2) break;
    }
    expect(changes).toEqual([
      { type: 'created', path: '/tmp/a', oldPath: undefined, isDir: false },
      { type: 'renamed', path: '/tmp/b', oldPath: '/tmp/a', isDir: true },
    ]);
    await gateway.abandoned.happened;
  });
});

describe('terminals', () => {
  test('one is typed into, resized, read to its end, and killed', async () => {
    const sb = await Sandbox.create();
    const pty = await sb.pty.create({ cols: 100, rows: 30, command: '/bin/sh', env: { A: '1' } });
    const order = { cols: 100, rows: 30, command: '/bin/sh', env: { A: '1' } };
    expect(first().ptys.get(pty.id)?.order).toEqual(order);
    await pty.resize(120, 40);
    expect(first().ptys.get(pty.id)?.size).toEqual([120, 40]);
    pty.write('é\n');
    pty.write(bytes('\xff'));
    pty.write('exit\n');
    expect(Buffer.concat(await all(pty)).toString('latin1')).toBe('$ \xc3\xa9\n\xff');
    expect(() => pty.write('more')).toThrow(ConnectionFailed);
    await pty.kill();
    await pty.kill();
    expect(first().ptys.size).toBe(0);
  });

  test('one is left and found again', async () => {
    const sb = await Sandbox.create();
    const left = await sb.pty.create();
    await left.close();
    const found = await sb.pty.connect(left.id);
    for await (const data of found) {
      expect(Buffer.from(data).toString()).toBe('$ ');
      break;
    }
    await found[Symbol.asyncDispose]();
    expect(first().ptys.size).toBe(0);
  });

  test('one that breaks is not an end', async () => {
    const sb = await Sandbox.create();
    const pty = await sb.pty.create();
    pty.write('break\n');
    await expect(all(pty)).rejects.toThrow(ConnectionFailed);
    const stopped = await sb.pty.create();
    stopped.write('stop\n');
    await expect(all(stopped)).rejects.toThrow(NotRunning);
  });

  test('one that cannot be attached is killed', async () => {
    const sb = await Sandbox.create();
    gateway.failUpgrades = true;
    await expect(sb.pty.create()).rejects.toThrow(ConnectionFailed);
    expect(first().ptys.size).toBe(0);
  });
});
