// What the tables of refusals are made of.
import type { Said } from "../lib/types";
import type { refusalsEn } from "./en_refusals";

/** A table with a sentence for every code. */
export type Refusals = { readonly [Code in keyof typeof refusalsEn]: (said: Said) => string };

/** The studio's own words. */
export const own = ({ what, fix }: Said): string => (fix === "" ? what : `${what} ${fix}`);

/** The studio's own words, to stand inside another sentence. */
export const words = ({ what, fix }: Said): string => (fix === "" ? what : `${what}; ${fix}`);

/** One of the values that the sentence has. */
export const value = (said: Said, name: string): string => String(said.values[name] ?? "");

const ROLES = new Map([["viewer", "查看者"], ["annotator", "标注员"], ["reviewer", "审核员"], ["lead", "负责人"], ["engineer", "工程师"], ["admin", "管理员"]]);

/** A role's name in Chinese. */
export const zhRole = (role: string): string => ROLES.get(role) ?? role;
