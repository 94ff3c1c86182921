/** Everything that the console knows, in one place; and the few things that change it. */
import { batch, computed, signal } from '@preact/signals';
import {
  Api,
  type EndedSandbox,
  MAX_ROWS,
  type Overview,
  Refusal,
  type Sandbox,
  type Session,
  type Usage,
} from './api.ts';
import { cpuShare, remember, type Sample } from './history.ts';

/** How often the gateway is looked at while the page is seen. */
const LOOK_MS = 3000;
/** How long it stands there what has been done. */
const SAID_MS = 8000;
/** Where the key is kept: as long as the tab, and nowhere else. */
const KEY = 'belljar:console-key';

/** Where a gateway without keys answers. */
const THIS_MACHINE = /^(localhost|127(\.\d+){3}|\[::1\])$/;

export type View = { name: 'list' } | { name: 'sandbox' | 'watch'; id: string };

/** Which rows are shown. */
export type Show = 'all' | 'visitors' | 'programs' | 'ended';

/** A visitor's session or a program's sandbox, as a row shows it. */
export interface Row {
  kind: 'session' | 'sandbox';
  id: string;
  state: string;
  reason: string | null;
  template: string;
  /** Whose it is, as far as the gateway tells. */
  who: string;
  /** ms since 1970. */
  expiresAt: number;
  over: boolean;
  /** If it is over. */
  endedAt: number;
  viewers: number;
  recorded: boolean;
  usage: Usage | null;
  /** Of a CPU. */
  cpu: number | null;
}

/** Something that is asked again before it is done. */
export interface Question {
  title: string;
  detail: string;
  action: string;
  run: () => Promise<void>;
}

/** The gateway's address. */
export const base = new URL('.', document.baseURI).href;

/** `null` until a key was accepted, or none is needed. */
export const api = signal<Api | null>(null);
export const asking = signal(true);
/** Why the key was not accepted. */
export const refused = signal('');
/** What keeps the page from knowing more. */
export const trouble = signal('');
export const overview = signal<Overview | null>(null);
export const samples = signal<Sample[]>([]);
export const templates = signal<string[]>([]);
export const now = signal(Date.now());
export const view = signal<View>(readView(location.hash));
export const text = signal('');
export const show = signal<Show>('all');
export const question = signal<Question | null>(null);
/** What has just been done, or could not be. */
export const said = signal('');
/** Whether there is more than the rows show. */
export const more = signal(false);

const sessions = signal<Session[]>([]);
const sandboxes = signal<Sandbox[]>([]);
const ended = signal<EndedSandbox[]>([]);
const usage = signal<ReadonlyMap<string, { usage: Usage; cpu: number | null }>>(new Map());

export const rows = computed<Row[]>(() => {
  const used = (id: string) => ({
    usage: usage.value.get(id)?.usage ?? null,
    cpu: usage.value.get(id)?.cpu ?? null,
  });
  const programs = sandboxes.value.map(
    (one): Row => ({
      kind: 'sandbox',
      id: one.id,
      state: one.status,
      reason: one.reason ?? null,
      template: one.template,
      who: 'a program',

      expiresAt: Date.parse(one.expiresAt),
      over: false,
      endedAt: 0,
      viewers: 0,
      recorded: false,
      ...used(one.id),
    }),
  );
  const gone = ended.value.map(
    (one): Row => ({
      kind: 'sandbox',
      id: one.id,
      state: 'ended',
      reason: one.reason,
      template: one.template,
      who: `a program, ${one.owner}`,
      expiresAt: 0,
      over: true,
      endedAt: Date.parse(one.endedAt),
      viewers: 0,
      recorded: false,
      ...used(one.id),
    }),
  );
  const visitors = sessions.value.map(
    (one): Row => ({
      kind: 'session',
      id: one.id,
      state: one.state,
      reason: one.reason ?? null,
      template: one.template,
      who: one.subject === undefined ? one.client : `${one.subject}, ${one.client}`,

      expiresAt: Date.parse(one.expiresAt),
      over: one.state === 'ended',
      endedAt: one.state === 'ended' ? Date.parse(one.endedAt ?? one.expiresAt) : 0,
      viewers: one.viewers,
      recorded: one.recorded,
      ...used(one.id),
    }),
  );
  // Those that live first, programs' before visitors', the newest first; then the last to end.
  // (`endedAt` is 0 of those that live.)
  return [...programs.reverse(), ...visitors, ...gone].sort(
    (a, b) => Number(a.over) - Number(b.over) || b.endedAt - a.endedAt,
  );
});

export const shown = computed(() => {
  const wanted = text.value.trim().toLowerCase();
  const kinds: Record<Show, (row: Row) => boolean> = {
    all: () => true,
    visitors: (row) => row.kind === 'session' && !row.over,
    programs: (row) => row.kind === 'sandbox' && !row.over,
    ended: (row) => row.over,
  };
  const holds = ({ id, state, reason, template, who }: Row) =>
    [id, state, reason ?? '', template, who].some((field) => field.toLowerCase().includes(wanted));
  return rows.value.filter((row) => kinds[show.value](row) && holds(row));
});

/** Asks with this key from now on, if the gateway takes it. */
export async function enter(key: string | null): Promise<void> {
  const candidate = new Api(base, key);
  asking.value = true;
  try {
    const first = await candidate.overview();
    keepKey(key);
    batch(() => {
      api.value = candidate;
      refused.value = '';
      trouble.value = '';
      learn(first);
    });
    await look();
    templates.value = await candidate.templates().catch(() => []);
  } catch (error) {
    // That a key is needed is no news to somebody who has not given one.
    const first = key === null && error instanceof Refusal && error.code === 'key_missing';
    leave(first ? '' : sentence(error), error instanceof Refusal);
  } finally {
    asking.value = false;
  }
}

/** Forgets everything that was shown; and the key, unless it may be good when the gateway is back. */
export function leave(reason = '', forget = true): void {
  if (forget) keepKey(null);
  batch(() => {
    api.value = null;
    refused.value = reason;
    overview.value = null;
    samples.value = [];
    sessions.value = [];
    sandboxes.value = [];
    ended.value = [];
    usage.value = new Map();
    question.value = null;
    said.value = '';
  });
}

/** Looks at everything at once. */
export async function look(): Promise<void> {
  const asked = api.value;
  if (asked === null) return;
  try {
    const [numbers, visitors, programs, gone, used] = await Promise.all([
      asked.overview(),
      asked.sessions(),
      asked.sandboxes(),
      asked.endedSandboxes(),
      asked.usage(),
    ]);
    if (asked !== api.value) return;
    batch(() => {
      trouble.value = '';
      learn(numbers);
      sessions.value = visitors.sessions;
      sandboxes.value = programs;
      ended.value = gone;
      const full = programs.length === MAX_ROWS || gone.length === MAX_ROWS;
      more.value = full || visitors.total > visitors.sessions.length;
      const before = usage.value;
      usage.value = new Map(
        used.map((one) => [one.id, { usage: one, cpu: cpuShare(before.get(one.id)?.usage, one) }]),
      );
    });
  } catch (error) {
    if (asked !== api.value) return;
    if (error instanceof Refusal && error.isAboutKey) leave(error.message);
    else trouble.value = sentence(error);
  }
}

function learn(numbers: Overview): void {
  samples.value = remember(samples.value, overview.value, numbers, Date.now());
  overview.value = numbers;
}

/** Does something for the operator, says how it went, and looks again. */
export async function act(done: string, action: () => Promise<void>): Promise<void> {
  try {
    await action();
    say(done);
  } catch (error) {
    say(sentence(error));
  }
  await look();
}

function say(sentence: string): void {
  said.value = sentence;
  setTimeout(() => {
    if (said.value === sentence) said.value = '';
  }, SAID_MS);
}

/** What to tell a person of this error. */
export function sentence(error: unknown): string {
  return error instanceof Error ? error.message : 'That did not work.';
}

export function go(to: View): void {
  location.hash = to.name === 'list' ? 'list' : `${to.name}=${to.id}`;
}

/** Keeps looking while somebody sees the page, and comes in with the key of this tab, if there is one. */
export function begin(): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const again = async () => {
    clearTimeout(timer);
    if (document.visibilityState === 'hidden') return;
    await look();
    clearTimeout(timer);
    timer = setTimeout(again, LOOK_MS);
  };
  document.addEventListener('visibilitychange', again);
  setInterval(() => {
    if (document.visibilityState === 'visible') now.value = Date.now();
  }, 1000);
  addEventListener('hashchange', () => {
    view.value = readView(location.hash);
  });
  const key = storedKey();
  // Elsewhere a key is always needed: asking without one would only count as a refusal.
  if (key !== null || THIS_MACHINE.test(location.hostname)) void enter(key);
  else asking.value = false;
  void again();
}

function readView(hash: string): View {
  const found = /^#(sandbox|watch)=([\w-]{1,64})$/.exec(hash);
  const [, name, id] = found ?? [];
  return id !== undefined && (name === 'sandbox' || name === 'watch') ? { name, id } : { name: 'list' };
}

function storedKey(): string | null {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    // Storage is denied: the key is asked for after each load.
    return null;
  }
}

function keepKey(key: string | null): void {
  try {
    if (key === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, key);
  } catch {
    // As above.
  }
}
