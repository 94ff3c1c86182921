// How long the page of another site takes to a terminal that is painted, and to its prompt: from asking for
// `/embed.js`, and from when the last of its scripts was there.
//
//     npm run paint [-- 30]     as many times (default: 20), each in a browser profile of its own
import { launch, Visitor } from './e2e/browser.mjs';
import { LAUNCHER, startGateway } from './e2e/gateway.mjs';
import { page, startSite } from './e2e/site.mjs';

const times = Number(process.argv[2] ?? 20);
const site = await startSite();
const gateway = await startGateway({
  ALLOWED_ORIGINS: site.url,
  LIMITS__SESSIONS_PER_HOUR: String(times + 10),
  TEMPLATES__BASE__POOL: '2',
});
const browser = await launch();
site.pages['/'] = page(`<script type="module" src="${gateway.url}/embed.js"></script>
<belljar-terminal autostart></belljar-terminal>`);

/** In the page: notes when the terminal is there, a frame after it was drawn for the first time. */
function watch() {
  const now = () => performance.now();
  const terminal = () => document.querySelector('belljar-terminal');
  const look = () => {
    const drawn = terminal()?.shadowRoot?.querySelector('.xterm-screen')?.clientHeight > 0;
    // What was drawn in this frame is on the glass in the next.
    if (!drawn) requestAnimationFrame(look);
    else
      requestAnimationFrame(() => {
        window.painted = now();
      });
  };
  const wait = () => {
    if (/[$#]\s*$/.test(terminal()?.text?.() ?? ''))
      requestAnimationFrame(() => {
        window.prompted = now();
      });
    else requestAnimationFrame(wait);
  };
  requestAnimationFrame(look);
  requestAnimationFrame(wait);
}

const painted = [];
const loaded = [];
const prompted = [];
try {
  // The first is the browser's own warming up.
  for (let time = 0; time <= times; time += 1) {
    const visitor = await Visitor.open(browser, 'about:blank');
    await visitor.page.addInitScript(watch);
    await visitor.page.goto(site.url);
    await visitor.page.waitForFunction(() => window.prompted > 0);
    const [paint, load, prompt] = await visitor.page.evaluate((script) => {
      const [{ startTime }] = performance.getEntriesByName(script);
      const scripts = performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('.js'));
      const ends = scripts.map(({ responseEnd }) => responseEnd).filter((end) => end < window.painted);
      return [window.painted - startTime, window.painted - Math.max(...ends), window.prompted - startTime];
    }, `${gateway.url}/embed.js`);
    if (time > 0) {
      painted.push(paint);
      loaded.push(load);
      prompted.push(prompt);
    }
    await visitor.run('exit');
    await visitor.is('ended');
    await visitor.close();
  }
} finally {
  await browser.close();
  await gateway.stop();
  site.stop();
}

console.log(
  `from the request for /embed.js unless said otherwise, loopback, cold cache, launcher ${LAUNCHER}, n = ${times}, in ms`,
);
for (const [name, values] of [
  ['terminal painted', painted],
  ['terminal painted, from its scripts loaded', loaded],
  ['prompt painted', prompted],
]) {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (part) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))].toFixed(0);
  console.log(`${name}: median ${at(0.5)}, p90 ${at(0.9)}, from ${at(0)} to ${at(1)}`);
}
