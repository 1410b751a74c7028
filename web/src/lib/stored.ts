// Small values in the browser's storage. A browser that refuses storage loses what outlives a reload, nothing else.

export function load<T>(area: Storage, name: string, otherwise: T): T {
  try {
    const text = area.getItem(`tropism.${name}`);
    return text === null ? otherwise : (JSON.parse(text) as T);
  } catch {
    return otherwise;
  }
}

/** Returns whether it is stored. */
export function save(area: Storage, name: string, value: unknown): boolean {
  try {
    if (value === undefined) area.removeItem(`tropism.${name}`);
    else area.setItem(`tropism.${name}`, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** Names in an area that begin so, without what all names begin with. */
export function names(area: Storage, prefix: string): string[] {
  return Object.keys(area)
    .filter((name) => name.startsWith(`tropism.${prefix}`))
    .map((name) => name.slice("tropism.".length));
}

/** A random UUID (RFC 9562, version 4); crypto.randomUUID is missing where a page comes over plain HTTP. */
export function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
