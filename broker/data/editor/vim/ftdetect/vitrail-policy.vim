autocmd BufNewFile,BufRead */policy.d/*.policy,*/policy.d/*.policytest setfiletype vitrail-policy
