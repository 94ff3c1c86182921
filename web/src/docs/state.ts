/** Everything that the page knows, in one place. */
import { computed, signal } from '@preact/signals';
import { found, haystack } from './search.ts';
import { type Document, type Group, groups, root } from './spec.ts';

/** `null` until it was read. */
export const described = signal<Document | null>(null);
export const failed = signal(false);
export const query = signal('');
/** The operation that the address names. */
export const here = signal(location.hash.slice(1));

/** Where the description lies, and where the API is: below this page's own address. */
export const source = new URL('api/openapi.json', document.baseURI).href;
export const base = computed(() => (described.value === null ? '' : root(described.value, document.baseURI)));

export const all = computed<Group[]>(() => (described.value === null ? [] : groups(described.value)));
const haystacks = computed(() => {
  const { value } = described;
  if (value === null) return new Map<string, string>();
  const operations = all.value.flatMap((group) => group.operations);
  return new Map(operations.map((operation) => [operation.id, haystack(value, operation)]));
});
/** What the search leaves. */
export const shown = computed(() => found(all.value, haystacks.value, query.value));
/** The ids of these. */
export const ids = computed(
  () => new Set(shown.value.flatMap(({ operations }) => operations.map(({ id }) => id))),
);

/** Reads the description, and goes where the address points. */
export async function read(): Promise<void> {
  failed.value = false;
  try {
    const answer = await fetch(source);
    if (!answer.ok) throw new Error(`${answer.status}`);
    described.value = (await answer.json()) as Document;
  } catch {
    failed.value = true;
  }
}

/** Goes to the operation that the address names, now that it is there. */
export function arrive(): void {
  here.value = location.hash.slice(1);
  if (here.value === '') return;
  // What was filtered away is looked for by its address.
  if (!ids.value.has(here.value)) query.value = '';
  requestAnimationFrame(() => {
    const goal = document.getElementById(here.value);
    goal?.scrollIntoView();
    // Tab goes on from there, and screen readers read on from there.
    goal?.querySelector<HTMLElement>('h3')?.focus({ preventScroll: true });
  });
}
