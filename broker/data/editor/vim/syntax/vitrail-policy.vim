" Rules of Vitrail (and of Qubes' qrexec policy 5.0), and expectations about them.
if exists("b:current_syntax")
  finish
endif

syntax match vitrailComment "^\s*#.*$"
syntax match vitrailInclude "^\s*!\S\+"
syntax match vitrailService "^\s*[A-Za-z0-9_.-]\+\ze\(+\S*\)\?\s"
syntax match vitrailSpecial "@\(anyvm\|adminvm\|default\|dispvm\)\>\(:\S\+\)\?"
syntax match vitrailSpecial "@\(tag\|type\):\S\+"
syntax match vitrailAny "\s\zs\*\ze\s"
syntax keyword vitrailAllow allow
syntax keyword vitrailAsk ask
syntax keyword vitrailDeny deny
syntax match vitrailKey "\<\(target\|default_target\|user\|notify\|autostart\|mime\|scheme\|host\|max-size\|rate\|ttl\|gesture\|remember\|mode\|id\|serial\|port\|hash\|with-interface\|class\|attach\|device\|size\|targets\|rule\)\ze="
syntax match vitrailArrow "->"
" Characters that are not ASCII, and a "#" that starts no comment.
syntax match vitrailError "[^\x00-\x7f]\+"
syntax match vitrailError "\S\s\+\zs#.*$"

highlight default link vitrailComment Comment
highlight default link vitrailInclude PreProc
highlight default link vitrailService Identifier
highlight default link vitrailSpecial Special
highlight default link vitrailAny Special
highlight default link vitrailAllow Statement
highlight default link vitrailAsk Todo
highlight default link vitrailDeny Error
highlight default link vitrailKey Type
highlight default link vitrailArrow Operator
highlight default link vitrailError Error

let b:current_syntax = "vitrail-policy"
