// What the studio refuses, by its code. English is the studio's own language: its words stand as they are. Other
// languages say the sentence themselves, with the studio's words behind where they tell more.
import { own } from "./said";

export const refusalsEn = {
  bad_value: own,
  bad_request: own,
  not_signed_in: own,
  wrong_password: own,
  bad_token: own,
  not_allowed: own,
  csrf: own,
  blind: own,
  origin: own,
  not_yours: own,
  not_found: own,
  conflict: own,
  already_answered: own,
  undo_too_late: own,
  lease_lost: own,
  gone: own,
  too_large: own,
  not_json: own,
  wrong_host: own,
  malformed: own,
  slow_down: own,
  busy: own,
  store: own,
  no_clip: own,
  bug: own,
  unknown: own,
} as const;
