import { useComputed, useSignal } from '@preact/signals';
import { useRef } from 'preact/hooks';
import { example } from './example.ts';
import { Fields, Value } from './fields.tsx';
import { type Shape, shape } from './shape.ts';
import { type Answer, type Document, isGood, type Media, type Operation } from './spec.ts';
import { base, here, ids } from './state.ts';
import { Text } from './text.tsx';

/** How long it stands there that something was copied. */
const COPIED_MS = 2500;

export function One({ document, operation }: { document: Document; operation: Operation }) {
  const { id, method, path, summary, description, parameters, body } = operation;
  // As signals, so that neither a key in the search nor a step to another operation draws all of them anew.
  const mark = useComputed(() => (here.value === id ? 'here' : ''));
  const away = useComputed(() => !ids.value.has(id));
  const [good, bad] = [operation.answers.filter(isGood), operation.answers.filter((one) => !isGood(one))];
  return (
    <article id={id} class={mark} hidden={away} aria-labelledby={`${id}-title`}>
      <div class="told">
        <div class="title">
          <h3 id={`${id}-title`} tabIndex={-1}>
            {summary}
          </h3>
          <a class="anchor" href={`#${id}`} aria-label={`Link to ${summary}`}>
            #
          </a>
        </div>
        <p class="address">
          <Method name={method} /> <code>{path}</code>
        </p>
        <Text text={description} />
        {parameters.length > 0 && (
          <div class="part">
            <h4>Parameters</h4>
            <ul class="fields">
              {parameters.map(({ name, in: place, required = false, description = '', schema = {} }) => (
                <li key={`${place} ${name}`}>
                  <Value
                    name={name}
                    place={place}
                    required={required}
                    shape={withWords(shape(document, schema), description)}
                  />
                </li>
              ))}
            </ul>
          </div>
        )}
        {body !== null && (
          <div class="part">
            <h4>Body</h4>
            {body.media.map((media) => (
              <Body key={media.type} document={document} media={media} required={body.required} />
            ))}
          </div>
        )}
        <div class="part">
          <h4>Answers</h4>
          {good.map((answer) => (
            <Good key={answer.status} document={document} answer={answer} />
          ))}
          {bad.length > 0 && <Bad document={document} answers={bad} />}
        </div>
      </div>
      <Example document={document} operation={operation} />
    </article>
  );
}

export function Method({ name }: { name: string }) {
  return <span class={`method ${name.toLowerCase()}`}>{name}</span>;
}

/** A parameter's own description is nearer than that of its schema. */
function withWords(shape: Shape, description: string): Shape {
  return description === '' ? shape : { ...shape, description };
}

function Body(props: { document: Document; media: Media; required: boolean }) {
  const { document, media, required } = props;
  const found = media.schema === null ? null : shape(document, media.schema);
  return (
    <>
      <p class="value">
        <code>{media.type}</code>
        {found !== null && <span class="type">{found.type}</span>}
        {required && <span class="must">required</span>}
      </p>
      {found !== null && found.fields.length > 0 && <Fields fields={found.fields} />}
      {found !== null && found.fields.length === 0 && found.description !== '' && (
        <Text text={found.description} />
      )}
    </>
  );
}

function Good({ document, answer }: { document: Document; answer: Answer }) {
  return (
    <div class="answer">
      <p>
        <span class="badge good">{answer.status}</span> {answer.description}
      </p>
      {answer.media.map(({ type, schema }) => (
        <div key={type} class="media">
          <p class="value">
            <code>{type}</code>
          </p>
          {schema !== null && <Value shape={shape(document, schema)} />}
        </div>
      ))}
    </div>
  );
}

/** All that may go wrong, in one list: mostly the same body, told once. */
function Bad({ document, answers }: { document: Document; answers: Answer[] }) {
  const bodies = new Map<string, Media>();
  for (const { media } of answers) for (const one of media) bodies.set(JSON.stringify(one), one);
  return (
    <details>
      <summary>
        Errors: <span class="statuses">{answers.map(({ status }) => status).join(' ')}</span>
      </summary>
      <ul class="fields">
        {answers.map(({ status, description }) => (
          <li key={status}>
            <p>
              <span class="badge bad">{status}</span> {description}
            </p>
          </li>
        ))}
      </ul>
      {[...bodies].map(([key, { type, schema }]) => (
        <div key={key} class="media">
          <p class="value">
            <code>{type}</code>
          </p>
          {schema !== null && <Value shape={shape(document, schema)} />}
        </div>
      ))}
    </details>
  );
}

function Example({ document, operation }: { document: Document; operation: Operation }) {
  const { kind, text } = example(document, operation, base.value);
  const code = useRef<HTMLPreElement>(null);
  const said = useSignal('');
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      said.value = 'Copied';
    } catch {
      // Denied, or a page without TLS: it is selected, so that a key copies it.
      if (code.current !== null) getSelection()?.selectAllChildren(code.current);
      said.value = 'Selected: copy it with a key';
    }
    setTimeout(() => {
      said.value = '';
    }, COPIED_MS);
  };
  return (
    <div class="example">
      <div class="bar">
        <span class="quiet">{kind === 'curl' ? 'In a shell' : 'A WebSocket, at'}</span>
        <span class="quiet" role="status">
          {said.value}
        </span>
        <button type="button" onClick={copy} aria-label={`Copy: ${operation.summary}`}>
          Copy
        </button>
      </div>
      <pre ref={code}>{text}</pre>
    </div>
  );
}
