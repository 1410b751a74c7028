// 简体中文：管理员的页面。
import type { Strings } from "./index.svelte";

export const adminZh: Strings["admin"] = {
  pages: { audit: "审计日志", tokens: "API 令牌", webhooks: "Webhook" },
  audit: { action: "操作", filter: "按操作筛选", when: "时间", who: "账号", object: "对象", detail: "详情", nobody: "无" },
  tokens: {
    about: "供程序使用。令牌只在创建时显示一次。",
    name: "名称",
    scope: "权限范围",
    scopes: { read: "只读", feedback: "反馈", write: "读写" },
    days: "有效天数",
    make: "创建令牌",
    made: "新令牌，只显示一次：",
    expires: "到期",
    revoked: "已吊销",
    revoke: "吊销",
    revoke_of: (name) => `吊销 ${name}`,
  },
  webhooks: {
    about: "工作台会调用这些地址，并对发送的内容签名。",
    url: "地址",
    events: "事件",
    event: { feedback: "反馈", stage: "阶段", queue: "队列" },
    add: "添加",
    secret: "用于校验签名的密钥，只显示一次：",
    remove_of: (url) => `移除 ${url}`,
    deliveries: "投递记录",
    delivered: "已送达",
    attempts: "尝试次数",
    error: "错误",
    when: "时间",
    disabled: "已停用",
  },
};
