/** Against the gateway that BELLJAR_URL names, with its template `base`. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  Client,
  FileError,
  InvalidRequest,
  NotFound,
  NotRunning,
  Sandbox,
  TooLarge,
} from '../../src/index.js';

describe.skipIf(process.env.BELLJAR_URL === undefined)('a live gateway', { timeout: 120_000 }, () => {
  let sb: Sandbox;

  beforeEach(async () => {
    sb = await Sandbox.create({ template: 'base', metadata: { test: 'typescript' }, timeout: 120 });
  }, 60_000);
  afterEach(() => sb.kill(), 60_000);

  test('a sandbox from start to end', async () => {
    expect(await sb.info()).toMatchObject({ id: sb.id, status: 'running', metadata: { test: 'typescript' } });
    const found = await Sandbox.list({ metadata: { test: 'typescript' } });
    expect(found.map((info) => info.id)).toContain(sb.id);
    await sb.setTimeout(300);
    expect((await sb.stats()).memoryBytes).toBeGreaterThan(0);
    expect((await sb.stop()).status).toBe('stopped');
    await expect(sb.commands.run('true')).rejects.toThrow(NotRunning);
    expect((await sb.restart()).status).toBe('running');
    expect((await sb.commands.run('echo back')).stdout).toBe('back\n');
    await sb.kill();
    await expect(Sandbox.connect(sb.id)).rejects.toThrow(NotFound);
    await expect(Sandbox.create({ template: 'nothing' })).rejects.toThrow(InvalidRequest);
  });

  test.skipIf(!process.env.BELLJAR_API_KEY)('keys', async () => {
    const client = new Client({ apiKey: 'blj_000000000000_wrong' });
    await expect(Sandbox.connect(sb.id, { client })).rejects.toMatchObject({ status: 403 });
    vi.stubEnv('BELLJAR_API_KEY', undefined);
    const without = Sandbox.connect(sb.id, { client: new Client() });
    vi.unstubAllEnvs();
    await expect(without).rejects.toMatchObject({ status: 401 });
  });

  test('commands', async () => {
    const options = { env: { A: 'é' }, cwd: '/tmp', stdin: 'typed' };
    const result = await sb.commands.run('echo $A; pwd; cat; exit 3', options);
    expect(result).toMatchObject({ stdout: 'é\n/tmp\ntyped', exitCode: 3 });
    expect((await sb.commands.run(['echo', '$A'])).stdout).toBe('$A\n');
    expect(await sb.commands.run('sleep 100', { timeout: 1 })).toMatchObject({
      exitCode: 124,
      timedOut: true,
    });
    expect((await sb.runCode('echo hello', 'bash')).stdout).toBe('hello\n');
    const said = { stdout: '', stderr: '' };
    for await (const event of sb.commands.stream('echo out; echo err >&2; exit 7')) {
      if (event.type === 'stdout' || event.type === 'stderr') said[event.type] += event.text;
      if (event.type === 'exit') expect(event.exitCode).toBe(7);
    }
    expect(said).toEqual({ stdout: 'out\n', stderr: 'err\n' });
    await expect(sb.commands.run(['/nowhere/nothing'])).rejects.toMatchObject({ code: 'spawn_failed' });
    let data = Buffer.of();
    let text = '';
    for await (const event of sb.commands.stream("printf '\\377\\303'; sleep 0.2; printf '\\251'")) {
      if (event.type !== 'stdout') continue;
      data = Buffer.concat([data, event.data]);
      text += event.text;
    }
    expect([data.toString('latin1'), text]).toEqual(['\xff\xc3\xa9', '\ufffd\xe9']);
  });

  test('a command that is left ends', async () => {
    for await (const event of sb.commands.stream('echo started; exec sleep 1234', { timeout: 600 })) {
      if (event.type === 'stdout') break;
    }
    const abort = new AbortController();
    const running = sb.commands.run('exec sleep 1234', { timeout: 600, signal: abort.signal });
    const sleeps = async () => (await sb.commands.run('grep -qx sleep /proc/[0-9]*/comm')).exitCode === 0;
    await expect.poll(sleeps, { timeout: 30_000 }).toBe(true);
    abort.abort();
    await expect(running).rejects.toThrow('aborted');
    await expect.poll(sleeps, { timeout: 30_000 }).toBe(false);
  });

  test('what a sandbox does ends with it', async () => {
    const pty = await sb.pty.create();
    const stream = await sb.commands.stream('echo started; sleep 1000').connect();
    const watch = await sb.files.watch('.').connect();
    await sb.kill();
    for (const endless of [pty, stream, watch]) {
      const read = async () => {
        for await (const _ of endless);
      };
      await expect(read()).rejects.toThrow(NotRunning);
    }
  });

  test('background', async () => {
    const process = await sb.commands.start('cat; echo end', { stdin: true });
    await process.writeStdin('typed\n');
    await process.closeStdin();
    expect(await process.wait()).toMatchObject({ exitCode: 0 });
    let out = '';
    for await (const event of process.output()) if (event.type === 'stdout') out += event.text;
    expect(out).toBe('typed\nend\n');
    const sleeping = await sb.commands.start('sleep 1000');
    await sleeping.signal('TERM');
    expect((await sleeping.wait()).signal).toBeDefined();
    const counting = await sb.commands.start('wc -c', { stdin: true });
    await counting.writeStdin('x'.repeat(200_000));
    await counting.closeStdin();
    await counting.wait();
    expect((await counting.read()).stdout).toBe('200000\n');
    const loud = await sb.commands.start('seq 200000');
    await loud.wait();
    for await (const event of loud.output()) {
      expect(event.type).toBe('gap');
      break;
    }
  });

  test('files', async () => {
    await sb.files.write('d/ä b', 'text é', { mode: 0o600 });
    expect(await sb.files.readText('d/ä b')).toBe('text é');
    expect(await sb.files.stat('d/ä b')).toMatchObject({ mode: 0o600, kind: 'file' });
    expect((await sb.files.list('d')).map((file) => file.name)).toEqual(['ä b']);
    expect((await sb.files.glob('**/ä*')).map((file) => file.name)).toEqual(['ä b']);
    const data = Buffer.alloc(3 << 20, 'belljar');
    await sb.files.upload(new Blob([data]), 'large');
    const back = await new Response(await sb.files.download('large')).arrayBuffer();
    expect(Buffer.from(back).equals(data)).toBe(true);
    await sb.files.mkdir('e');
    await sb.files.unpack(await sb.files.pack('d'), 'e');
    expect(await sb.files.readText('e/ä b')).toBe('text é');
    await expect(sb.files.remove('d')).rejects.toThrow(FileError);
    await expect(sb.files.write('/tmp/too-large', new Uint8Array(20 << 20))).rejects.toThrow(TooLarge);
    await sb.commands.run('mkdir many; cd many; seq 1500 | xargs touch');
    expect(await sb.files.list('many')).toHaveLength(1500);
    await sb.files.remove('d', { recursive: true });
    expect(await sb.files.exists('d')).toBe(false);
  });

  test('a terminal', async () => {
    const pty = await sb.pty.create({ cols: 100, rows: 30 });
    await pty.resize(120, 40);
    pty.write('stty size; exit\n');
    let out = '';
    for await (const data of pty) out += Buffer.from(data).toString('latin1');
    expect(out).toContain('40 120');
    await pty.kill();
    const pasted = await sb.pty.create({ command: 'stty raw -echo; echo go; head -c 200000 | wc -c' });
    out = '';
    for await (const data of pasted) {
      out += Buffer.from(data).toString('latin1');
      if (out.trim() === 'go') pasted.write('x'.repeat(200_000));
    }
    expect(out).toContain('200000');
  });

  test('a port', async () => {
    await sb.commands.start('python3 -m http.server 8000 --bind 127.0.0.1');
    const answered = async () => {
      const response = await fetch(sb.ports.url(8000), { headers: sb.ports.headers });
      expect(response.status).toBe(200);
      return response.text();
    };
    await expect.poll(answered, { timeout: 30_000 }).toContain('Directory listing');
  });
});
