import type { Field, Shape } from './shape.ts';
import { Line } from './text.tsx';

/** What there is to know of a value: its type, whether it must be there, bounds, what it is for; then what is in it. */
export function Value(props: { shape: Shape; name?: string; place?: string; required?: boolean }) {
  const { shape, name, place, required } = props;
  return (
    <>
      <p class="value">
        {name !== undefined && <code class="name">{name}</code>}
        <span class="type">{shape.type}</span>
        {place !== undefined && <span>in {place}</span>}
        {required === true && <span class="must">required</span>}
        {shape.facts.map((fact) => (
          <span key={fact}>{fact}</span>
        ))}
      </p>
      {shape.description !== '' && (
        <p class="what">
          <Line text={shape.description} />
        </p>
      )}
      {shape.values.length > 0 && (
        <p class="what">
          One of{' '}
          {shape.values.map((value, at) => (
            <span key={value}>
              {at > 0 && ', '}
              <code>{value}</code>
            </span>
          ))}
        </p>
      )}
      <Inside shape={shape} />
    </>
  );
}

/** Folded up, because most who read want to know one thing. */
function Inside({ shape }: { shape: Shape }) {
  const { fields, variants, type } = shape;
  return (
    <>
      {variants.length > 0 && (
        <ul class="fields">
          {variants.map((variant) => (
            <li key={`${variant.type}${variant.description}`}>
              <Value shape={variant} />
            </li>
          ))}
        </ul>
      )}
      {fields.length > 0 && (
        <details>
          <summary>
            {fields.length === 1 ? 'One field' : `${fields.length} fields`} of {type}
          </summary>
          <Fields fields={fields} />
        </details>
      )}
    </>
  );
}

export function Fields({ fields }: { fields: Field[] }) {
  return (
    <ul class="fields">
      {fields.map(({ name, required, shape }) => (
        <li key={name}>
          <Value name={name} required={required} shape={shape} />
        </li>
      ))}
    </ul>
  );
}
