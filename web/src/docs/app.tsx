import { useComputed } from '@preact/signals';
import type { TargetedKeyboardEvent } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { Mark } from '../mark.tsx';
import { Method, One } from './operation.tsx';
import type { Document, Group, Scheme } from './spec.ts';
import { all, arrive, base, described, failed, here, ids, query, read, shown, source } from './state.ts';
import { Text } from './text.tsx';

/** Wide enough for the list of operations beside them. */
const WIDE = '(min-width: 901px)';

export function App() {
  const document = described.value;
  return (
    <>
      <a class="skip" href="#operations">
        To the operations
      </a>
      <header>
        <a class="brand" href=".">
          <Mark />
          <h1>
            Belljar <span>API</span>
          </h1>
        </a>
        <p class="about">{document !== null && `Version ${document.info.version}`}</p>
        <a href={source}>OpenAPI</a>
      </header>
      {document === null ? <Waiting /> : <Pages document={document} />}
    </>
  );
}

function Waiting() {
  return (
    <main id="operations" tabIndex={-1}>
      {failed.value ? (
        <p class="trouble" role="alert">
          The description could not be read.{' '}
          <button type="button" onClick={() => void read()}>
            Try again
          </button>
        </p>
      ) : (
        <p class="asking">Reading the description…</p>
      )}
    </main>
  );
}

function Pages({ document }: { document: Document }) {
  useEffect(() => {
    arrive();
    addEventListener('hashchange', arrive);
    return () => removeEventListener('hashchange', arrive);
  }, []);
  const searched = useComputed(() => query.value.trim() !== '');
  const found = useComputed(() => ids.value.size > 0);
  return (
    <div class="pages">
      <Contents />
      <main id="operations" tabIndex={-1}>
        <div class="introduction" hidden={searched}>
          <Introduction document={document} />
        </div>
        <p class="empty" hidden={found}>
          No operation has these words in it.
        </p>
        {all.value.map((group) => (
          <Operations key={group.name} document={document} group={group} />
        ))}
      </main>
    </div>
  );
}

function Operations({ document, group }: { document: Document; group: Group }) {
  const { name, description, operations } = group;
  const away = useComputed(() => !operations.some(({ id }) => ids.value.has(id)));
  return (
    <section class="group" hidden={away} aria-labelledby={`tag-${slug(name)}`}>
      <h2 id={`tag-${slug(name)}`}>{name}</h2>
      {description !== '' && (
        <div class="quiet">
          <Text text={description} />
        </div>
      )}
      {operations.map((operation) => (
        <One key={operation.id} document={document} operation={operation} />
      ))}
    </section>
  );
}

/** The search, and all operations by name. Where there is no room beside the operations, the names are folded up. */
function Contents() {
  const search = useRef<HTMLInputElement>(null);
  const names = useRef<HTMLDetailsElement>(null);
  useEffect(() => {
    const slash = (event: KeyboardEvent) => {
      const typed =
        event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey;
      if (event.key !== '/' || typed) return;
      event.preventDefault();
      search.current?.focus();
    };
    addEventListener('keydown', slash);
    const wide = matchMedia(WIDE);
    const fold = () => names.current?.toggleAttribute('open', wide.matches);
    fold();
    wide.addEventListener('change', fold);
    return () => {
      removeEventListener('keydown', slash);
      wide.removeEventListener('change', fold);
    };
  }, []);
  const clear = (event: TargetedKeyboardEvent<HTMLInputElement>) => {
    if (event.key !== 'Escape') return;
    event.preventDefault();
    query.value = '';
  };
  const choose = () => names.current?.toggleAttribute('open', matchMedia(WIDE).matches);
  const count = ids.value.size;
  return (
    <div class="contents">
      <search>
        <input
          ref={search}
          type="search"
          aria-label="Find operations"
          aria-keyshortcuts="/"
          placeholder="Find: files, timeout, POST …"
          value={query.value}
          onKeyDown={clear}
          onInput={({ currentTarget }) => {
            query.value = currentTarget.value;
          }}
        />
        <p class="quiet" role="status">
          {count === 1 ? 'One operation' : `${count} operations`}
        </p>
      </search>
      <details ref={names}>
        <summary>By name</summary>
        <nav aria-label="Operations">
          {shown.value.map(({ name, operations }) => (
            <div key={name}>
              <p class="quiet" id={`list-${slug(name)}`}>
                {name}
              </p>
              <ul aria-labelledby={`list-${slug(name)}`}>
                {operations.map(({ id, method, summary }) => (
                  <li key={id}>
                    <a href={`#${id}`} aria-current={here.value === id ? 'true' : undefined} onClick={choose}>
                      <Method name={method} /> <span>{summary}</span>
                    </a>
                  </li>
                ))}
              </ul>
            </div>
          ))}
        </nav>
      </details>
    </div>
  );
}

function Introduction({ document }: { document: Document }) {
  const schemes = document.components?.securitySchemes ?? {};
  const names = (document.security ?? []).flatMap((one) => Object.keys(one));
  return (
    <>
      <Text text={document.info.description ?? ''} />
      <p>
        All of it is below <code>{base.value}</code>.
      </p>
      {names.length > 0 && (
        <>
          <p>A key goes into one of these:</p>
          <ul>
            {names.map((name) => {
              const scheme = schemes[name];
              return scheme !== undefined && <li key={name}>{place(scheme)}</li>;
            })}
          </ul>
          <p>
            The examples take it from the shell's <code>BELLJAR_API_KEY</code>. Where the gateway has no keys,
            programs of its own machine need none.
          </p>
        </>
      )}
    </>
  );
}

function place({ type, scheme, in: where, name }: Scheme) {
  if (type === 'apiKey' && where === 'query') {
    return (
      <>
        the query, as <code>{name}=KEY</code>
      </>
    );
  }
  if (type === 'apiKey') return <code>{name}: KEY</code>;
  if (scheme === 'basic') return <>the password of basic authentication</>;
  return <code>Authorization: {scheme === 'bearer' ? 'Bearer' : scheme} KEY</code>;
}

const slug = (name: string) => name.replace(/\W+/g, '-');
