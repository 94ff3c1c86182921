// What a visitor may do around a terminal: colours, sizes, search, keys on glass, the way out. Leaves screenshots in
// e2e/screenshots/ for a human to look at.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { after, afterEach, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { violations } from './axe.mjs';
import { launch, PHONE, Visitor } from './browser.mjs';
import { startGateway } from './gateway.mjs';

const SCREENSHOTS = fileURLToPath(new URL('./screenshots/', import.meta.url));
const TIME = { timeout: 120_000 };

describe('the tools of a terminal', () => {
  let gateway;
  let browser;
  let visitor;

  before(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    gateway = await startGateway();
    browser = await launch();
  }, TIME);

  afterEach(async () => {
    await visitor?.close();
    visitor = null;
  });

  after(async () => {
    await browser?.close();
    await gateway?.stop();
  });

  const open = async (path = '/embed', options = {}) => {
    visitor = await Visitor.open(browser, gateway.url + path, options);
    await visitor.prompt();
    return visitor.page;
  };
  const picture = async (name) => {
    await visitor.page.waitForTimeout(300);
    await visitor.page.screenshot({ path: `${SCREENSHOTS}${name}.png` });
  };
  /** Waits until the terminal has these colours. */
  const looks = (look) =>
    visitor.page.waitForFunction(
      (wanted) =>
        document.querySelector('belljar-terminal').shadowRoot.querySelector('.frame').dataset.look === wanted,
      look,
    );
  const set = (name, value) =>
    visitor.page.evaluate(
      ([n, v]) => {
        document.querySelector('belljar-terminal')[n] = v;
      },
      [name, value],
    );
  const tools = () => visitor.page.getByRole('button', { name: 'Tools' });

  it('has the colours of the page around, of the system, or those that are chosen', TIME, async () => {
    const page = await open('/embed', { colorScheme: 'dark' });
    await looks('dark');
    await page.emulateMedia({ colorScheme: 'light' });
    await looks('light');
    await page.evaluate(() => {
      document.documentElement.style.colorScheme = 'dark';
    });
    await looks('dark');
    await tools().click();
    await page.getByLabel('Colours').selectOption('High contrast');
    await looks('contrast');
    assert.equal(await page.locator('belljar-terminal').getAttribute('theme'), 'contrast');
    await set('theme', 'auto');
    await page.emulateMedia({ forcedColors: 'active' });
    await looks('contrast');
    assert.deepEqual(visitor.errors, []);
  });

  for (const theme of ['light', 'dark', 'contrast']) {
    it(`says and shows everything in ${theme}`, TIME, async () => {
      const page = await open(`/embed?theme=${theme}`, { viewport: { width: 900, height: 560 } });
      await visitor.run("ls --color=always /; printf '\\e[31mred \\e[32mgreen \\e[34mblue\\e[0m\\n'");
      await visitor.sees(/red green blue\n/);
      await tools().click();
      await picture(`tools-${theme}`);
      assert.deepEqual(await violations(page), []);
    });
  }

  it('can be read in the colours of the system', TIME, async () => {
    const page = await open('/embed', { viewport: { width: 900, height: 560 }, forcedColors: 'active' });
    await tools().click();
    await picture('tools-forced');
    assert.deepEqual(await violations(page), []);
  });

  it('finds text on the screen and above', TIME, async () => {
    const page = await open();
    await page.locator('belljar-terminal').click();
    await visitor.run('clear; for i in $(seq 1 300); do echo "needle $i"; done; echo the" "end');
    await visitor.sees(/^the end$/m);
    await page.keyboard.press('Control+Shift+F');
    const field = page.getByLabel('Find in the terminal');
    await field.fill('needle 2');
    await page.getByText(/^\d+ of 111$/).waitFor();
    await page.keyboard.press('Enter');
    await picture('find-light');
    await field.fill('no such thing');
    await page.getByText('Not there').waitFor();
    assert.deepEqual(await violations(page), []);
    await page.keyboard.press('Escape');
    await page.keyboard.type('echo typed=$((40+2))\n');
    await visitor.sees(/^typed=42$/m);
    assert.deepEqual(visitor.errors, []);
  });

  it('has characters of the size that the page or the visitor wants', TIME, async () => {
    const page = await open();
    await page.locator('belljar-terminal').click();
    const { cols } = await visitor.size();
    await page.keyboard.press('Control+=');
    await page.keyboard.press('Control++');
    const larger = (await visitor.size()).cols;
    assert.ok(larger < cols, `${larger} of ${cols}`);
    await page.keyboard.press('Control+0');
    assert.equal((await visitor.size()).cols, cols);
    await set('fontSize', 28);
    assert.ok((await visitor.size()).cols < larger);
    await page.evaluate(() => document.querySelector('belljar-terminal').resize(80, 24));
    assert.deepEqual(await visitor.size(), { cols: 80, rows: 24 });
    await visitor.run('sleep 0.3; stty size');
    await visitor.sees(/^24 80$/m);
  });

  it('lets the keyboard out, and says how', TIME, async () => {
    const page = await open();
    await page.locator('belljar-terminal').click();
    const inside = () =>
      page.evaluate(
        () => document.querySelector('belljar-terminal').shadowRoot.activeElement?.className ?? '',
      );
    assert.match(await inside(), /xterm-helper-textarea/);
    await page.keyboard.press('Tab');
    assert.match(await inside(), /xterm-helper-textarea/, 'Tab is the program’s');
    await page.getByRole('textbox', { name: /Control Shift Enter leaves it/ }).waitFor();
    await page.keyboard.press('Control+Shift+Enter');
    assert.match(await inside(), /more/);
    await page.getByRole('status').filter({ hasText: 'You have left the terminal' }).waitFor();
    // And everything else is reached by key from there.
    await page.keyboard.press('Enter');
    await page.getByRole('button', { name: 'Smaller text' }).waitFor();
    await page.keyboard.press('Escape');
    assert.match(await inside(), /xterm-helper-textarea/);
  });

  it('has the keys that a phone has not', TIME, async () => {
    const page = await open('/embed', PHONE);
    const keys = page.getByRole('toolbar', { name: 'More keys' });
    await keys.waitFor();
    await page.locator('belljar-terminal').tap({ position: { x: 150, y: 150 } });
    await page.keyboard.type('echo one=$((40+1))\n');
    await visitor.sees(/^one=41$/m);
    await visitor.prompt();
    await keys.getByRole('button', { name: 'Up' }).tap();
    await page.keyboard.press('Enter');
    await visitor.sees(/^one=41$[\s\S]*^one=41$/m);
    await page.keyboard.type('cat');
    await keys.getByRole('button', { name: '-', exact: true }).tap();
    await keys.getByRole('button', { name: 'Ctrl' }).tap();
    await picture('keys-phone');
    assert.deepEqual(await violations(page), []);
    await page.keyboard.type('c');
    await visitor.sees(/cat-\^C/);
    await page.keyboard.type('echo ech');
    await page.keyboard.press('Control+u');
    await page.keyboard.type('cd /et');
    await keys.getByRole('button', { name: 'Tab' }).tap();
    await visitor.sees(/cd \/etc\//);
    await tools().tap();
    await picture('tools-phone');
    assert.deepEqual(await violations(page), []);
    await page.getByRole('button', { name: 'More keys' }).tap();
    await keys.waitFor({ state: 'hidden' });
  });

  it('reads itself out when asked', TIME, async () => {
    const page = await open('/embed?screen-reader');
    await visitor.run('echo said=$((40+2))');
    await page.locator('.xterm-accessibility').getByText('said=42', { exact: true }).waitFor();
    assert.deepEqual(await violations(page), []);
  });

  it('keeps the keyboard from visitors if the page wants that', TIME, async () => {
    const page = await open('/embed?readonly');
    await page.locator('belljar-terminal').click();
    await page.keyboard.type('echo strange\n');
    await page.getByText('Here only the page types.').first().waitFor();
    await visitor.run('echo run=$((40+2))');
    await visitor.sees(/^run=42$/m);
    assert.doesNotMatch(await visitor.text(), /strange/);
  });

  it('lets programs copy only where the page allows it, and never read', TIME, async () => {
    const permissions = ['clipboard-read', 'clipboard-write'];
    const copy = (text) =>
      visitor.run(`printf '\\e]52;c;%s\\a' $(printf '${text}' | base64); echo done=$((40+2))`);
    const copied = () => visitor.page.evaluate(() => navigator.clipboard.readText());
    let page = await open('/embed', { permissions });
    await page.evaluate(() => navigator.clipboard.writeText('mine'));
    await copy('strange');
    await visitor.sees(/^done=42$/m);
    assert.equal(await copied(), 'mine');
    await visitor.close();
    page = await open('/embed?clipboard', { permissions });
    await copy('déjà vu');
    await page.getByText('Copied to the clipboard.').first().waitFor();
    assert.equal(await copied(), 'déjà vu');
    await visitor.run("read -t 1 -rs -d '\\' -p $'\\e]52;c;?\\a' A; echo \"asked: <$A>\"");
    await visitor.sees(/^asked: <>$/m);
  });

  it('draws images where the page allows it', TIME, async () => {
    const page = await open('/embed?images');
    const layer = page.locator('canvas.xterm-image-layer');
    await visitor.run(`printf '\\ePq#0;2;100;0;0#0~~@@vv@@~~@@~~$-\\e\\\\'; echo drawn=$((40+2))`);
    await visitor.sees(/^drawn=42$/m);
    await layer.waitFor({ state: 'attached' });
    assert.deepEqual(visitor.errors, []);
  });

  it('fills the screen', TIME, async () => {
    const page = await open('/');
    await tools().click();
    await page.getByRole('button', { name: 'Full screen' }).click();
    await page.waitForFunction(() => document.fullscreenElement?.localName === 'belljar-terminal');
    await picture('fullscreen');
    await page.evaluate(() => document.exitFullscreen());
  });

  it('can be drawn taller where the page allows it', TIME, async () => {
    const page = await open('/');
    await page.evaluate(() => document.querySelector('belljar-terminal').toggleAttribute('resizable', true));
    const box = await page.locator('belljar-terminal').boundingBox();
    await page.mouse.move(box.x + box.width - 4, box.y + box.height - 4);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width - 4, box.y + box.height - 124, { steps: 4 });
    await page.mouse.up();
    const after = await page.locator('belljar-terminal').boundingBox();
    assert.ok(Math.abs(box.height - after.height - 120) < 3, `${box.height} → ${after.height}`);
  });
});
