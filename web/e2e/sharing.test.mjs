// Two people and one terminal; and the terminal seen again afterwards. Leaves screenshots in e2e/screenshots/.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { flaws } from './axe.mjs';
import { launch, PHONE, Visitor } from './browser.mjs';
import { startGateway } from './gateway.mjs';

const SCREENSHOTS = fileURLToPath(new URL('./screenshots/', import.meta.url));
const TIME = { timeout: 120_000 };

describe('a shared and recorded terminal', () => {
  let gateway;
  let browser;
  let recordings;

  before(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    recordings = mkdtempSync(join(tmpdir(), 'belljar-e2e-recordings-'));
    gateway = await startGateway({
      RECORDINGS__DIR: recordings,
      TEMPLATES__BASE__RECORDING: 'true',
    });
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
    await gateway?.stop();
    rmSync(recordings, { recursive: true });
  });

  const picture = async (visitor, name) => {
    await visitor.page.waitForTimeout(400);
    await visitor.page.screenshot({ path: `${SCREENSHOTS}${name}.png` });
    // The player's own controls are its makers' business.
    const exclude = [['belljar-terminal', '.stage']];
    assert.deepEqual(await flaws(visitor.page, { exclude }), []);
  };

  it('is watched by a phone until its owner stops that', TIME, async () => {
    const owner = await Visitor.open(browser, gateway.url, { permissions: ['clipboard-write'] });
    await owner.prompt();
    await owner.run('echo shown=$((40+2))');
    await owner.sees(/^shown=42$/m);
    await owner.page.getByText('Recorded', { exact: true }).waitFor();
    await owner.page.getByRole('button', { name: 'Share' }).click();
    const field = owner.page.getByLabel('Link to watch this terminal');
    await owner.page.getByText('Copied').waitFor();
    const link = await field.inputValue();
    assert.equal(new URL(link).search, '', 'no token in what a server logs');

    const guest = await Visitor.open(browser, link, PHONE);
    await guest.is('connected');
    await guest.page.getByText('Watching, read only').first().waitFor();
    await guest.sees(/^shown=42$/m);
    await owner.page.getByText('1 watching', { exact: true }).waitFor();
    assert.deepEqual(await guest.size(), await owner.size());
    await picture(owner, 'sharing-owner');
    await picture(guest, 'sharing-guest-phone');
    // The owner's screen is wider than a phone shows at characters that can be read: it scrolls.
    const scrolled = await guest.page.evaluate(() => {
      const screen = document.querySelector('belljar-terminal').shadowRoot.querySelector('.screen');
      screen.scrollLeft = 40;
      return screen.scrollLeft;
    });
    assert.equal(scrolled, 40);

    await owner.page.getByRole('button', { name: 'Close', exact: true }).click();
    await owner.page.setViewportSize(PHONE.viewport);
    await picture(owner, 'sharing-owner-phone');

    // Whatever the guest does, the owner's shell does not hear it; the owner's size is the guest's.
    await guest.page.locator('belljar-terminal').click();
    await guest.page.keyboard.type('echo intruder\n');
    await guest.run('echo intruder');
    await owner.page.setViewportSize({ width: 900, height: 700 });
    await owner.page.waitForTimeout(500);
    await owner.run('echo done=$((1+1))');
    await guest.sees(/^done=2$/m);
    assert.doesNotMatch(await owner.text(), /intruder/);
    assert.deepEqual(await guest.size(), await owner.size());

    await owner.page.getByRole('button', { name: '1 watching' }).click();
    await owner.page.getByRole('button', { name: 'Stop sharing' }).click();
    await guest.page.getByText('Not shared any more').first().waitFor();
    await picture(guest, 'sharing-stopped-phone');
    await guest.page.getByRole('button', { name: 'Start your own' }).click();
    await guest.prompt();
    assert.doesNotMatch(guest.page.url(), /share/);
    assert.doesNotMatch(await guest.text(), /shown=42/);
    assert.deepEqual([...owner.errors, ...guest.errors], []);
    await owner.close();
    await guest.close();
  });

  it('is played again when it is over', TIME, async () => {
    for (const [colorScheme, name] of [
      ['dark', 'replay-dark'],
      ['light', 'replay-light'],
    ]) {
      const visitor = await Visitor.open(browser, gateway.url, { colorScheme });
      await visitor.prompt();
      await visitor.run("printf 'a \\033[32mgreen\\033[0m 日本語 %s\\n' replay; exit");
      await visitor.is('ended');
      const button = visitor.page.getByRole('button', { name: 'Replay', exact: true });
      await button.waitFor();
      await picture(visitor, `${name}-before`);
      await button.click();
      const seen = visitor.page.locator('.stage .ap-term-text', { hasText: 'replay' });
      await seen.waitFor();
      await picture(visitor, name);
      await visitor.page.locator('.stage .ap-playback-button').click();
      await visitor.page.getByRole('button', { name: 'Close the replay' }).click();
      await visitor.page.getByText('The session has ended').first().waitFor();
      assert.deepEqual(visitor.errors, []);
      await visitor.close();
    }
  });
});
