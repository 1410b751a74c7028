import { session } from "../lib/session.svelte";
import { en } from "./en";
import { zh } from "./zh";

/** The same shape with every literal widened, so that another language must have each key and each argument. */
type Widened<T> = T extends string
  ? string
  : T extends (...args: infer A) => string
    ? (...args: A) => string
    : { readonly [K in keyof T]: Widened<T[K]> };

export type Strings = Widened<typeof en>;

const TABLES: Record<"en" | "zh", Strings> = { en, zh };

/** The strings of the language that is set; reading it in a component makes the component follow the setting. */
export function text(): Strings {
  return TABLES[session.language];
}

export function locale(): string {
  return session.language === "zh" ? "zh-CN" : "en-GB";
}
