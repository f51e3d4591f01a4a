with followed as (
    select *, lead(session_no) over (partition by symbol order by session_no) as next_no
    from {{ ref('int_bar_sessions') }}
),
sessions as (select distinct trades_weekends, session_no, session from {{ ref('int_bar_sessions') }})
select
    followed.symbol,
    first_one.session as first_missing,
    last_one.session as last_missing,
    followed.next_no - followed.session_no - 1 as missing_sessions
from followed
join sessions as first_one
    on first_one.trades_weekends = followed.trades_weekends and first_one.session_no = followed.session_no + 1
join sessions as last_one
    on last_one.trades_weekends = followed.trades_weekends and last_one.session_no = followed.next_no - 1
where followed.next_no > followed.session_no + 1
