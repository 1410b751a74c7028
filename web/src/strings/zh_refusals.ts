// 工作台拒绝请求时的说明，按代码。括号里是工作台自己的原文，说明具体是哪个值。
import { value, words, zhRole, type Refusals } from "./said";

export const refusalsZh: Refusals = {
  bad_value: (said) => `这个值不符合要求，请修改后重试（${words(said)}）。`,
  bad_request: (said) => `无法处理这个请求（${words(said)}）。`,
  not_signed_in: () => "需要登录才能继续。请先登录。",
  wrong_password: () => "名称或密码不正确。",
  bad_token: () => "令牌无效、已撤销或已过期。请创建新的令牌。",
  not_allowed: (said) =>
    said.values.role === undefined
      ? `你没有此操作的权限（${words(said)}）。`
      : `此操作需要“${zhRole(value(said, "role"))}”或更高的角色。`,
  csrf: () => "页面已过期，请重新加载后重试。",
  blind: () => "你可能还要评判这道题，因此暂时不能查看。请先作答或跳过；可撤销期间也会继续隐藏。",
  origin: () => "请求来自其他网站的页面，已被拒绝。请使用工作台自己的页面。",
  not_yours: () => "这道题不是分配给你的。请领取新的题目。",
  not_found: (said) => `没有找到（${words(said)}）。`,
  conflict: (said) => `与现有内容冲突（${words(said)}）。`,
  already_answered: () => "这道题已经回答过。请继续下一题。",
  undo_too_late: () => "已超过可撤销的时间。如需更改，请联系负责人。",
  lease_lost: () => "你对此题的领取已过期，可能已分配给他人。仍可作答：回答会保存。",
  gone: () => "此链接已使用或已过期。请索取新的链接。",
  too_large: (said) => (said.values.limit === undefined ? "内容太大，请减少后重试。" : `内容太大（上限 ${value(said, "limit")} 字节），请减少后重试。`),
  not_json: () => "工作台不接受这种格式的内容。请重新加载页面。",
  wrong_host: (said) => `工作台不接受这个主机名：${value(said, "host")}。请用 IP 地址打开，或以 --name 指定该主机名启动。`,
  malformed: (said) => `填写的内容不符合要求（${words(said)}）。`,
  slow_down: (said) => `尝试次数过多，请在 ${value(said, "seconds")} 秒后重试。`,
  busy: () => "数据库正忙，请稍后重试。",
  store: (said) => `暂时无法使用数据库（${words(said)}）。`,
  no_clip: (said) => `无法绘制此片段（${words(said)}）。`,
  bug: () => "工作台处理此请求时出错。请查看工作台的输出。",
  unknown: (said) => `出现了未知的错误（${words(said)}）。`,
};
