// The gateway as a part of a larger site, below a path of it: every page, and everything that they ask for.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { launch, Visitor } from './browser.mjs';
import { LAUNCHER, startGateway } from './gateway.mjs';
import { startPrefix } from './prefix.mjs';
import { page as html, startSite } from './site.mjs';

const TIME = { timeout: 120_000 };
const PREFIX = '/some/where/';

describe('below a path', () => {
  let site;
  let gateway;
  let proxy;
  let browser;
  let directory;

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'belljar-e2e-prefix-'));
    site = await startSite();
    const settings = {
      ALLOWED_ORIGINS: site.url,
      API__KEYS_FILE: '/nowhere/belljar/keys.toml',
      TEMPLATES__BASE__POOL: '0',
    };
    // Plain processes have the home of this machine, and it may have none.
    if (LAUNCHER === 'process') settings.TEMPLATES__BASE__HOME = directory;
    gateway = await startGateway(settings);
    proxy = await startPrefix(gateway, PREFIX);
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
    proxy?.stop();
    await gateway?.stop();
    site?.stop();
    rmSync(directory, { recursive: true });
  });

  /** A visitor, and whatever was asked for that is not below the path. */
  const open = async (path) => {
    const visitor = await Visitor.open(browser, 'about:blank');
    const outside = [];
    const note = (url) =>
      /^(http|ws)/.test(url) && !new URL(url).pathname.startsWith(PREFIX) && outside.push(url);
    visitor.page.on('request', (request) => note(request.url()));
    visitor.page.on('websocket', (socket) => note(socket.url()));
    await visitor.page.goto(new URL(path, proxy.url).href);
    return { visitor, page: visitor.page, outside };
  };
  const fine = ({ visitor, outside }) => {
    assert.deepEqual(outside, []);
    assert.deepEqual(visitor.errors, []);
  };

  it('the page has a terminal, comes back to it, and shares it', TIME, async () => {
    const opened = await open('');
    const { visitor, page } = opened;
    await visitor.prompt();
    await visitor.run('echo first=$((40+2))');
    await visitor.sees(/^first=42$/m);
    await page
      .getByText('Development mode: not sealed')
      .or(page.getByText('Sealed in gVisor'))
      .first()
      .waitFor();
    await page.reload();
    await visitor.sees(/^first=42$/m);
    await page.getByRole('button', { name: 'Share', exact: true }).click();
    const field = page.getByRole('textbox', { name: /link/i });
    await field.waitFor();
    await page.waitForFunction((input) => input.value !== '', await field.elementHandle());
    const link = await field.inputValue();
    assert.ok(link.startsWith(`${proxy.url}#share=`), link);
    const guest = await Visitor.open(browser, link);
    await guest.sees(/^first=42$/m);
    await guest.close();
    fine(opened);
    await visitor.close();
  });

  it('the frame and the script for other sites', TIME, async () => {
    const opened = await open('embed');
    await opened.visitor.prompt();
    fine(opened);
    await opened.visitor.close();
    site.pages['/'] = html(
      `<script type="module" src="${proxy.url}embed.js"></script>\n<belljar-terminal autostart></belljar-terminal>`,
    );
    const reader = await Visitor.open(browser, site.url);
    await reader.prompt();
    assert.deepEqual(reader.errors, []);
    await reader.close();
  });

  it('the API is described as it is reached', TIME, async () => {
    const opened = await open('docs#listTemplates');
    const { visitor, page } = opened;
    await page.locator('#listTemplates').getByText(`"${proxy.url}api/v1/templates"`).waitFor();
    await page.getByRole('link', { name: 'OpenAPI' }).click();
    await page.waitForURL(`${proxy.url}api/openapi.json`);
    fine(opened);
    await visitor.close();
  });

  it('the console makes a sandbox, has a terminal in it, and watches a visitor', TIME, async () => {
    const there = await open('');
    await there.visitor.prompt();
    await there.visitor.run('echo seen=$((40+2))');
    const opened = await open('console');
    const { visitor, page } = opened;
    // The newest is the first.
    await page
      .getByRole('button', { name: /^Watch / })
      .first()
      .click();
    await visitor.sees(/^seen=42$/m);
    await page.getByRole('link', { name: 'Back' }).click();
    await page.getByText('Create a sandbox', { exact: true }).click();
    await page.getByRole('button', { name: 'Create' }).click();
    await page.locator('.xterm-rows').filter({ hasText: /[$#]/ }).waitFor();
    await page.getByRole('button', { name: 'Refresh' }).waitFor();
    await page.getByRole('button', { name: 'End', exact: true }).click();
    await page.getByRole('button', { name: 'End it' }).click();
    await page.getByText(/^Sandbox .* has ended\.$/).waitFor();
    await page.getByRole('link', { name: /Belljar/ }).click();
    assert.ok(page.url().startsWith(`${proxy.url}console`), page.url());
    assert.deepEqual(opened.outside, []);
    await visitor.close();
    await there.visitor.close();
  });
});
