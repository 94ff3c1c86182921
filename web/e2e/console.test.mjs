// The operators' console: who may come in, what is seen, what can be done. Leaves screenshots in e2e/screenshots/.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { flaws } from './axe.mjs';
import { launch, PHONE, Visitor } from './browser.mjs';
import { LAUNCHER, startGateway } from './gateway.mjs';
import { keysFile, newKey } from './keys.mjs';

const SCREENSHOTS = fileURLToPath(new URL('./screenshots/', import.meta.url));
const TIME = { timeout: 120_000 };

/** Nothing that a screen reader, or somebody without a mouse, would stumble over; nothing that does not fit. */
async function check({ page }, name) {
  await page.screenshot({ path: `${SCREENSHOTS}${name}.png`, fullPage: true });
  assert.deepEqual(await flaws(page), [], name);
}

describe('the console', () => {
  let gateway;
  let browser;
  let directory;
  let key;
  let plain;
  const settings = { TEMPLATES__BASE__POOL: '0' };

  before(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    directory = mkdtempSync(join(tmpdir(), 'belljar-e2e-console-'));
    key = newKey(directory, 'admin');
    plain = newKey(directory, 'sandboxes');
    settings.API__KEYS_FILE = keysFile(directory);
    // Plain processes have the home of this machine, and it may have none.
    if (LAUNCHER === 'process') settings.TEMPLATES__BASE__HOME = directory;
    gateway = await startGateway(settings);
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
    await gateway?.stop();
    rmSync(directory, { recursive: true });
  });

  /** An operator who has come in. */
  const enter = async (options = {}) => {
    const operator = await Visitor.open(browser, `${gateway.url}/console`, options);
    await operator.page.getByLabel('API key').fill(key);
    await operator.page.getByRole('button', { name: 'Come in' }).click();
    await operator.page.getByRole('heading', { name: 'Sessions and sandboxes' }).waitFor();
    return operator;
  };

  /** What the browser itself says of a refused request, or of one to a sandbox that has just ended, is none. */
  const noErrors = ({ errors }) =>
    assert.deepEqual(
      errors.filter((text) => !/status of 40[134]/.test(text)),
      [],
    );

  it('asks for a key, and says calmly when it is the wrong one', TIME, async () => {
    const { page, ...operator } = await Visitor.open(browser, `${gateway.url}/console`);
    const field = page.getByLabel('API key');
    await field.waitFor();
    await check({ page }, 'console-login');
    for (const [wrong, told] of [
      ['blj_0123456789ab_00', 'This API key is not valid.'],
      [plain, 'This needs an API key with the scope admin.'],
      ['', 'This needs an API key'],
    ]) {
      await field.fill(wrong);
      await field.press('Enter');
      if (wrong !== '') await page.getByText(told).waitFor();
      assert.equal(await page.getByText('Sessions and sandboxes').count(), 0);
    }
    await field.fill(key);
    await field.press('Enter');
    await page.getByText('Nobody is here.').waitFor();
    assert.doesNotMatch(page.url(), /blj_/);
    const kept = await page.evaluate(() => [Object.values(sessionStorage), Object.values(localStorage)]);
    assert.deepEqual(kept, [[key], []]);
    await page.reload();
    await page.getByText('Nobody is here.').waitFor();
    await page.getByRole('button', { name: 'Forget the key' }).click();
    await field.waitFor();
    await page.reload();
    await field.waitFor();
    noErrors(operator);
    await operator.context.close();
  });

  it('makes a sandbox, types in it, runs a command, and moves files', TIME, async () => {
    const operator = await enter();
    const { page } = operator;
    await page.getByText('Create a sandbox', { exact: true }).click();
    await page.getByLabel('Minutes').fill('5');
    await page.getByRole('button', { name: 'Create' }).click();
    await page.getByRole('heading', { name: /^Sandbox/ }).waitFor();

    const screen = page.locator('.xterm-rows');
    await page.locator('.xterm-helper-textarea').waitFor({ state: 'attached' });
    await screen.filter({ hasText: /[$#]/ }).waitFor();
    await page.locator('.screen').click();
    await page.keyboard.type('echo typed=$((40+2)); echo here >note.txt\n');
    await screen.filter({ hasText: 'typed=42' }).waitFor();
    await page.keyboard.press('Shift+Escape');
    assert.equal(await page.evaluate(() => document.activeElement.className), 'back');

    const command = page.getByRole('textbox', { name: 'Command' });
    await command.fill('echo out; echo err >&2; exit 3');
    await command.press('Enter');
    await page.getByText('Ended with 3.').waitFor();
    assert.equal(await page.locator('pre').textContent(), 'out\nerr\n');

    await page.getByRole('button', { name: 'Refresh' }).click();
    await page.getByText('note.txt', { exact: true }).waitFor();
    const upload = page.locator('input[type=file]');
    await upload.setInputFiles({
      name: 'up.txt',
      mimeType: 'text/plain',
      buffer: Buffer.from('from below\n'),
    });
    await page.getByText('up.txt came up.').waitFor();
    await page.getByText('note.txt', { exact: true }).waitFor();
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: 'Download up.txt' }).click(),
    ]);
    assert.equal(download.suggestedFilename(), 'up.txt');
    assert.equal(readFileSync(await download.path(), 'utf8'), 'from below\n');
    await check(operator, 'console-sandbox');
    await page.getByRole('button', { name: 'Remove up.txt' }).click();
    await page.getByRole('button', { name: 'Remove it' }).click();
    await page.getByText('up.txt is gone.').waitFor();
    assert.equal(await page.getByText('up.txt', { exact: true }).count(), 0);

    await page.getByRole('button', { name: 'End', exact: true }).click();
    await page.getByRole('button', { name: 'Cancel' }).click();
    await page.getByRole('button', { name: 'End', exact: true }).click();
    await page.getByRole('button', { name: 'End it' }).click();
    await page.getByText(/^Sandbox .* has ended\.$/).waitFor();
    await page
      .locator('tr.over', { hasText: 'killed' })
      .getByText('a program, key', { exact: false })
      .waitFor();
    await page.getByRole('radio', { name: 'Programs' }).check();
    await page.getByText('Nothing here has these words in it.').waitFor();
    await page.getByRole('radio', { name: 'Ended' }).check();
    await page.locator('tr.over', { hasText: 'killed' }).waitFor();
    noErrors(operator);
    await operator.close();
  });

  it('watches a visitor, who knows; and ends the session, which the visitor is told', TIME, async () => {
    const visitor = await Visitor.open(browser, gateway.url);
    await visitor.prompt();
    await visitor.run('echo seen=$((40+2))');
    await visitor.sees(/^seen=42$/m);
    const operator = await enter();
    const { page } = operator;
    await page.getByRole('button', { name: /^Watch / }).click();
    await page.locator('belljar-terminal').waitFor();
    await operator.is('connected');
    await operator.sees(/^seen=42$/m);
    await visitor.page.getByText('1 watching', { exact: true }).waitFor();
    await page.locator('belljar-terminal').click();
    await page.keyboard.type('echo intruder\n');
    await visitor.run('echo done=$((1+1))');
    await operator.sees(/^done=2$/m);
    assert.doesNotMatch(await visitor.text(), /intruder/);
    await check(operator, 'console-watch');

    await page.getByRole('link', { name: 'Back' }).click();
    await visitor.page.getByText('1 watching', { exact: true }).waitFor({ state: 'hidden' });
    await page.getByPlaceholder(/^Filter/).fill('nothing of the kind');
    await page.getByText('Nothing here has these words in it.').waitFor();
    await page.getByPlaceholder(/^Filter/).fill('attached');
    await page.getByRole('button', { name: /^End / }).click();
    await page.getByRole('button', { name: 'End it' }).click();
    await visitor.page.getByText('Ended by the operator').first().waitFor();
    await page.getByPlaceholder(/^Filter/).fill('');
    await page.getByRole('radio', { name: 'Ended' }).check();
    await page.locator('tr', { hasText: 'ended by operator' }).waitFor();
    noErrors(visitor);
    noErrors(operator);
    await visitor.close();
    await operator.close();
  });

  // Five operators come in, one after the other.
  it('is at home on a phone, in the dark, and without a mouse', { timeout: 300_000 }, async () => {
    const visitor = await Visitor.open(browser, gateway.url);
    await visitor.prompt();
    for (const [name, options] of [
      ['console-light', { colorScheme: 'light' }],
      ['console-dark', { colorScheme: 'dark' }],
      ['console-phone', { ...PHONE, colorScheme: 'light' }],
      ['console-phone-dark', { ...PHONE, colorScheme: 'dark' }],
      ['console-contrast', { forcedColors: 'active' }],
    ]) {
      const operator = await enter(options);
      await operator.page.locator('tr', { hasText: 'attached' }).waitFor();
      // Two looks make a share of a CPU.
      await operator.page.locator('td[data-name=CPU]', { hasText: '%' }).first().waitFor();
      await check(operator, name);
      noErrors(operator);
      await operator.close();
    }
    const operator = await enter();
    await operator.page.getByRole('button', { name: /^Watch / }).focus();
    await operator.page.keyboard.press('Enter');
    await operator.page.locator('belljar-terminal').waitFor();
    await operator.is('connected');
    await operator.page.getByRole('link', { name: 'Back' }).focus();
    await operator.page.keyboard.press('Enter');
    await operator.page.getByRole('button', { name: /^End / }).focus();
    await operator.page.keyboard.press('Enter');
    await operator.page.keyboard.press('Escape');
    await operator.page.getByRole('button', { name: 'End it' }).waitFor({ state: 'hidden' });
    await visitor.is('connected');
    await operator.close();
    await visitor.close();
  });

  it('says when the gateway is away, and finds it again', TIME, async () => {
    const operator = await enter();
    await gateway.stop();
    await operator.page.getByText('The gateway cannot be reached.').waitFor();
    gateway = await startGateway(settings, gateway.port);
    await operator.page.getByText('The gateway cannot be reached.').waitFor({ state: 'hidden' });
    await operator.close();
  });
});

describe('the console of a gateway without keys', () => {
  it('opens on its own machine without being asked', TIME, async () => {
    const gateway = await startGateway({
      API__KEYS_FILE: '/nowhere/belljar/keys.toml',
      TEMPLATES__BASE__POOL: '0',
      TEMPLATES__BASE__HOME: '/tmp',
    });
    const browser = await launch();
    try {
      const { page, errors } = await Visitor.open(browser, `${gateway.url}/console`);
      await page.getByText('Nobody is here.').waitFor();
      await page.getByText('Create a sandbox', { exact: true }).click();
      await page.getByRole('button', { name: 'Create' }).click();
      await page.locator('.xterm-rows').filter({ hasText: /[$#]/ }).waitFor();
      assert.deepEqual(errors, []);
    } finally {
      await browser.close();
      await gateway.stop();
    }
  });
});
