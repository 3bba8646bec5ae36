autocmd BufNewFile,BufRead */policy.d/*.policy,*/policy.d/*.policytest set filetype=vitrail-policy
