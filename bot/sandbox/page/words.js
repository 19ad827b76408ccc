// The words of the page itself; what the bot says comes from the bot.

export const WORDS = {
  en: {
    online: "bot", connecting: "connecting…", typing: "is typing", upload_photo: "is sending a photo", upload_document: "is sending a file",
    message: "Message", attach: "Attach photos", send: "Send", menu: "Menu", theme: "Light or dark", more: "More", language: "中文: switch the language to Chinese",
    someone: "Be someone else", block: "Block the bot", unblock: "Unblock the bot", start: "START", restart: "UNBLOCK",
    emptyTitle: "What can this bot do?", emptyText: "Send a few selfies and get a portrait of yourself. Everything stays on this machine.",
    today: "Today", photo: "Photo", file: "File", drop: "Drop your photos here", down: "To the newest message",
    one: "Send 1 photo", many: (n) => `Send ${n} photos`, asFile: "Send as files", asFileHint: "Original quality, nothing is compressed",
    add: "Add more", cancel: "Cancel", remove: "Remove", close: "Close", save: "Save", left: "Previous", right: "Next", failed: "That could not be sent. Is the sandbox running?",
  },
  zh: {
    online: "机器人", connecting: "正在连接…", typing: "正在输入", upload_photo: "正在发送照片", upload_document: "正在发送文件",
    message: "消息", attach: "添加照片", send: "发送", menu: "菜单", theme: "浅色或深色", more: "更多", language: "English: 切换为英文",
    someone: "换一个人", block: "屏蔽机器人", unblock: "取消屏蔽", start: "开始", restart: "取消屏蔽",
    emptyTitle: "这个机器人能做什么？", emptyText: "发送几张自拍，即可得到你的写真。所有内容都留在这台电脑上。",
    today: "今天", photo: "照片", file: "文件", drop: "把照片拖到这里", down: "查看最新消息",
    one: "发送 1 张照片", many: (n) => `发送 ${n} 张照片`, asFile: "以文件发送", asFileHint: "保持原始画质，不压缩",
    add: "继续添加", cancel: "取消", remove: "移除", close: "关闭", save: "保存", left: "上一张", right: "下一张", failed: "发送失败。沙盒还在运行吗？",
  },
};
