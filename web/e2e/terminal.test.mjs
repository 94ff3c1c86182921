// The page in a real browser, in front of a real gateway.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { launch, Visitor } from './browser.mjs';
import { LAUNCHER, startGateway } from './gateway.mjs';

const sealed = LAUNCHER === 'process' ? 'the process launcher does not isolate' : false;
const TIME = { timeout: 120_000 };

describe('the page', () => {
  let gateway;
  let browser;
  let visitor;

  before(async () => {
    gateway = await startGateway();
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
    await gateway?.stop();
  });

  beforeEach(async () => {
    visitor = await Visitor.open(browser, gateway.url);
    await visitor.prompt();
  }, TIME);

  afterEach(async () => {
    await visitor?.close();
  });

  it('comes to a prompt in which keys work, with nothing to complain about', TIME, async () => {
    await visitor.page.locator('belljar-terminal').click();
    await visitor.page.keyboard.type('echo sum=$((40+2))\n');
    await visitor.sees(/^sum=42$/m);
    assert.deepEqual(visitor.errors, []);
  });

  it('is sealed in gVisor, as nobody in particular', { ...TIME, skip: sealed }, async () => {
    await visitor.run('dmesg | head -1; echo "uid=$(id -u)"');
    await visitor.sees(/Starting gVisor\.\.\./);
    const [, uid] = await visitor.sees(/^uid=(\d+)$/m);
    assert.notEqual(uid, '0');
  });

  it('says whether its terminals are sealed', TIME, async () => {
    const note = LAUNCHER === 'process' ? 'Development mode: not sealed' : 'Sealed in gVisor';
    await visitor.page.getByText(note, { exact: true }).waitFor();
  });

  it('runs the command of a chip', TIME, async () => {
    await visitor.page.getByRole('button', { name: 'df -h ~' }).click();
    await visitor.sees(/Filesystem[\s\S]*[$#]\s*$/);
  });

  it('tells the program its size', TIME, async () => {
    const shown = async (mark) => {
      await visitor.run(`echo ${mark}: $(stty size)`);
      const [, rows, cols] = await visitor.sees(new RegExp(`^${mark}: (\\d+) (\\d+)$`, 'm'));
      return { cols: Number(cols), rows: Number(rows) };
    };
    const wide = await visitor.size();
    assert.deepEqual(await shown('wide'), wide);
    await visitor.page.setViewportSize({ width: 700, height: 600 });
    await visitor.page.waitForFunction(
      (before) => document.querySelector('belljar-terminal').size.cols < before.cols,
      wide,
    );
    // The page tells the program once the size has been the same for a moment.
    await visitor.page.waitForTimeout(500);
    const narrow = await visitor.size();
    assert.ok(narrow.rows < wide.rows, JSON.stringify({ wide, narrow }));
    assert.deepEqual(await shown('narrow'), narrow);
  });

  it('keeps the shell over a reload', TIME, async () => {
    await visitor.run('X=42');
    await visitor.page.reload();
    await visitor.is('connected');
    await visitor.sees(/X=42/);
    await visitor.run('echo "X is $X"');
    await visitor.sees(/^X is 42$/m);
  });

  it('answers a query when it is asked, and not again when it is replayed', TIME, async () => {
    const ask = (name) =>
      visitor.run(`read -rs -d R -p $'\\e[c\\e[6n' A; echo "${name}: \${A#*[}" | tr -d '\\033'`);
    await ask('first');
    await visitor.sees(/^first: .*;\d+$/m);
    await visitor.prompt();
    await visitor.page.reload();
    await visitor.is('connected');
    await visitor.sees(/^first: .*;\d+$/m);
    await visitor.prompt();
    await visitor.page.waitForTimeout(500);
    await visitor.run('echo "all"quiet');
    await visitor.sees(/^allquiet$/m);
    assert.match(await visitor.text(), /[$#] echo "all"quiet$/m, 'answers to replayed queries were typed');
    await ask('second');
    await visitor.sees(/^second: .*;\d+$/m);
  });

  it('loses and repeats no line when the connection is cut again and again', TIME, async () => {
    await visitor.watchSockets();
    await visitor.page.reload();
    await visitor.is('connected');
    await visitor.run('clear; for i in $(seq 1 300); do echo "line $i"; sleep 0.01; done; echo "all done"');
    for (let cut = 0; cut < 8; cut += 1) {
      await visitor.is('connected');
      await visitor.page.waitForTimeout(200);
      await visitor.cut();
    }
    await visitor.sees(/^all done$/m);
    const lines = [...(await visitor.text()).matchAll(/^line (\d+)$/gm)].map((match) => Number(match[1]));
    assert.deepEqual(
      lines,
      Array.from({ length: 300 }, (_, i) => i + 1),
    );
    assert.ok((await visitor.page.evaluate(() => window.sockets.length)) >= 8);
  });

  it('survives a time without network', TIME, async () => {
    await visitor.context.setOffline(true);
    await visitor.page.waitForTimeout(1500);
    await visitor.context.setOffline(false);
    await visitor.is('connected');
    await visitor.run('echo back=$((40+2))');
    await visitor.sees(/^back=42$/m);
  });

  it('takes a paste of 1 MiB whole', TIME, async () => {
    const pasted = 'seal under glass é 日本 🫙 '.repeat(40_000);
    const bytes = Buffer.from(pasted).subarray(0, 1 << 20);
    // Without half a character at the end: 1 MiB is no multiple of the pattern.
    const text = bytes.toString('utf8').replace(/\uFFFD+$/, '');
    const sum = createHash('sha256').update(text).digest('hex');
    const size = Buffer.byteLength(text);
    await visitor.run(`stty raw -echo; echo "go"on; head -c ${size} | sha256sum; stty sane`);
    await visitor.sees(/^\s*goon/m);
    await visitor.paste(text);
    const [seen] = await visitor.sees(/[0-9a-f]{64}/, 60_000);
    assert.equal(seen, sum);
    await visitor.run('echo still=$((40+2))');
    await visitor.sees(/^\s*still=42$/m);
  });

  it('shows more output than any buffer on the way holds', TIME, async () => {
    await visitor.run('seq 1 400000; echo "the end"');
    await visitor.sees(/^400000\nthe end$/m, 60_000);
  });

  it('gets Ctrl-C through a flood', TIME, async () => {
    await visitor.page.locator('belljar-terminal').click();
    await visitor.run('yes');
    await visitor.sees(/y\ny\ny\ny/);
    await visitor.page.waitForTimeout(1000);
    const pressed = Date.now();
    await visitor.page.keyboard.press('Control+c');
    await visitor.prompt();
    const took = Date.now() - pressed;
    assert.ok(took < 3000, `${took} ms to the prompt`);
  });

  it('carries characters of four bytes both ways', TIME, async () => {
    await visitor.page.locator('belljar-terminal').click();
    await visitor.page.keyboard.insertText("printf %s '🫙日é' | od -An -tx1");
    await visitor.page.keyboard.press('Enter');
    await visitor.sees(/^ f0 9f ab 99 e6 97 a5 c3 a9$/m);
    await visitor.run("printf '<\\xf0\\x9f\\xab\\x99|\\xe6\\x97\\xa5>\\n'");
    await visitor.sees(/^<🫙\|日>$/m);
  });

  it('shows the end, and starts again', TIME, async () => {
    await visitor.run('exit 3');
    const { end } = await visitor.is('ended');
    assert.equal(end.exit.reason, 'exited');
    assert.equal(end.exit.code, 3);
    await visitor.page.getByText('Its shell returned 3.').first().waitFor();
    await visitor.page.getByRole('button', { name: 'Start again' }).click();
    await visitor.is('connected');
    await visitor.prompt();
    await visitor.run('echo again=$((40+2))');
    await visitor.sees(/^again=42$/m);
    assert.doesNotMatch(await visitor.text(), /exit 3/);
  });

  it('throws the terminal away on request', TIME, async () => {
    await visitor.run('X=42');
    await visitor.page.getByRole('button', { name: /start a fresh one/ }).click();
    await visitor.is('connected');
    await visitor.run('echo "X is <$X>"');
    await visitor.sees(/^X is <>$/m);
  });

  it('leaves the terminal to another window, and takes it back', TIME, async () => {
    await visitor.run('X=42');
    const lease = await visitor.page.evaluate(() => ({ ...sessionStorage }));
    const other = new Visitor(visitor.context, await visitor.context.newPage());
    await other.page.addInitScript((items) => Object.assign(sessionStorage, items), lease);
    await other.page.goto(gateway.url);
    await other.is('connected');
    const { end } = await visitor.is('ended');
    assert.equal(end.kind, 'taken_over');
    await visitor.page.getByRole('button', { name: 'Use it here' }).click();
    await visitor.is('connected');
    await visitor.run('echo "X is $X"');
    await visitor.sees(/^X is 42$/m);
    assert.equal((await other.is('ended')).end.kind, 'taken_over');
  });
});

describe('a gateway that goes away', () => {
  let gateway;
  let browser;

  before(async () => {
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
    await gateway?.stop();
  });

  it('ends the session calmly, and its successor starts another', TIME, async () => {
    gateway = await startGateway();
    const visitor = await Visitor.open(browser, gateway.url);
    await visitor.prompt();
    await visitor.run('X=42');
    await gateway.stop();
    const { end, resumable } = await visitor.is('ended');
    assert.deepEqual([end.kind, end.exit?.reason, resumable], ['exit', 'shutdown', false]);
    await visitor.page.getByText('The gateway has shut down').first().waitFor();
    const again = visitor.page.getByRole('button', { name: 'Start again' });
    assert.ok(await again.isEnabled());
    assert.deepEqual(visitor.errors, []);

    gateway = await startGateway({}, gateway.port);
    await again.click();
    await visitor.is('connected');
    await visitor.prompt();
    await visitor.run('echo "X is <$X>"');
    await visitor.sees(/^X is <>$/m);
    assert.deepEqual(visitor.errors, []);
    await visitor.close();
    await gateway.stop();
  });

  // Plain processes end with their gateway.
  it('is replaced, and the shell is still there', { ...TIME, skip: sealed }, async () => {
    gateway = await startGateway();
    const visitor = await Visitor.open(browser, gateway.url);
    await visitor.prompt();
    await visitor.run('X=42');
    await visitor.sees(/X=42\n.*[$#]\s*$/);
    await gateway.handOver();
    await visitor.is('reconnecting');
    gateway = await startGateway({}, gateway.port);
    await visitor.is('connected');
    await visitor.run('echo "X is <$X>"');
    await visitor.sees(/^X is <42>$/m);
    await visitor.close();
  });
});
