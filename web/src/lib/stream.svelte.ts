// What happens in the study, as it happens. The browser reconnects by itself and says what it saw last (Last-Event-ID),
// so that nothing is missed and nothing comes twice; `reset` says that the studio no longer knows, and all is fetched anew.

export interface Metric {
  stage: string;
  step: number;
  values: Record<string, number | null>;
}
export interface StageChange {
  name: string;
  round: number;
  status: string;
}
export interface Activity {
  stage: string | null;
  activity: string | null;
  done: number | null;
  total: number | null;
  note: string | null;
}

export interface Listeners {
  metric?: (event: Metric) => void;
  stage?: (event: StageChange) => void;
  progress?: (event: Activity) => void;
  reset?: () => void;
}

export class Live {
  open = $state(false);

  /** Listen until the returned function is called. */
  listen(listeners: Listeners): () => void {
    const types = Object.keys(listeners).filter((name) => name !== "reset");
    const source = new EventSource(`api/v1/stream?types=${types.join(",")}`);
    source.onopen = () => (this.open = true);
    source.onerror = () => (this.open = false);
    const on = <T>(name: string, take: ((event: T) => void) | undefined): void => {
      if (take) source.addEventListener(name, (event) => take(JSON.parse((event as MessageEvent<string>).data) as T));
    };
    on("metric", listeners.metric);
    on("stage", listeners.stage);
    on("progress", listeners.progress);
    on("reset", listeners.reset);
    return () => {
      source.close();
      this.open = false;
    };
  }
}
