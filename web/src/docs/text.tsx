/** The description's own texts: paragraphs, with `code` in them. */

export function Text({ text }: { text: string }) {
  const paragraphs = text.split(/\n\s*\n/).filter((paragraph) => paragraph.trim() !== '');
  return (
    <>
      {paragraphs.map((paragraph) => (
        <p key={paragraph}>
          <Line text={paragraph} />
        </p>
      ))}
    </>
  );
}

export function Line({ text }: { text: string }) {
  // Every second piece stood between backticks.
  const pieces = text.split('`');
  return (
    <>
      {pieces.map((piece, at) => {
        const key = `${at}${piece}`;
        return at % 2 === 1 ? <code key={key}>{piece}</code> : piece;
      })}
    </>
  );
}
