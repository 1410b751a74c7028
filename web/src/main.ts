import { mount } from "svelte";
import App from "./App.svelte";
import "./app.css";
import { session } from "./lib/session.svelte";

session.show();
void session.refresh();
const target = document.getElementById("app");
if (target !== null) mount(App, { target });
