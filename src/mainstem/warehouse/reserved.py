"""Words that can't be the name of a table or column as they are, per engine, in lower case. Facts of the engines.

The engines' loaders quote every name, so that a word is no danger to the load; it is escaped (`_order`) so that people
can write their queries without quotes, and because RudderStack's tables are named so.
"""

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SQL_SERVER: Final = _words(
    """
    absolute action ada add admin after aggregate alias all allocate alter and any are array as asc asensitive
    assertion asymmetric at atomic authorization avg backup before begin between binary bit bit_length blob boolean
    both breadth break browse bulk by call called cardinality cascade cascaded case cast catalog char char_length
    character character_length check checkpoint class clob close clustered coalesce collate collation collect column
    commit completion compute condition connect connection constraint constraints contains containstable continue
    convert corr corresponding count covar_pop covar_samp create cross cube cume_dist current current_catalog
    current_date current_default_transform_group current_path current_role current_schema current_time
    current_timestamp current_transform_group_for_type current_user cursor cycle data database date day dbcc
    deallocate dec decimal declare default deferrable deferred delete deny depth deref desc describe descriptor
    destroy destructor deterministic diagnostics dictionary disconnect disk distinct distributed domain double drop
    dump dynamic each element else end equals errlvl escape every except exception exec execute exists exit external
    extract false fetch file fillfactor filter first float for foreign fortran found free freetext freetexttable
    from full fulltexttable function fusion general get global go goto grant group grouping having hold holdlock
    host hour identity identity_insert identitycol if ignore immediate in include index indicator initialize
    initially inner inout input insensitive insert int integer intersect intersection interval into is isolation
    iterate join key kill language large last lateral leading left less level like like_regex limit lineno ln load
    local localtime localtimestamp locator lower map match max member merge method min minute mod modifies modify
    module month multiset names national natural nchar nclob new next no nocheck nonclustered none normalize not
    null nullif numeric object occurrences_regex octet_length of off offsets old on only open opendatasource
    openquery openrowset openxml operation option or order ordinality out outer output over overlaps overlay pad
    parameter parameters partial partition pascal percent percent_rank percentile_cont percentile_disc pivot plan
    position position_regex postfix precision prefix preorder prepare preserve primary print prior privileges proc
    procedure public raiserror range read reads readtext real reconfigure recursive ref references referencing
    regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy relative release
    replication restore restrict result return returns revert revoke right role rollback rollup routine row rowcount
    rowguidcol rows rule save savepoint schema scope scroll search second section securityaudit select
    semantickeyphrasetable semanticsimilaritydetailstable semanticsimilaritytable sensitive sequence session
    session_user set sets setuser shutdown similar size smallint some space specific specifictype sql sqlca sqlcode
    sqlerror sqlexception sqlstate sqlwarning start state statement static statistics stddev_pop stddev_samp
    structure submultiset substring substring_regex sum symmetric system system_user table tablesample temporary
    terminate textsize than then time timezone_hour timezone_minute to top trailing tran transaction translate
    translate_regex translation treat trigger trim true truncate try_convert tsequal uescape under union unique
    unknown unnest unpivot update updatetext upper usage use user using value values var_pop var_samp varchar
    variable varying view waitfor when whenever where while width_bucket window with within withingroup without work
    write writetext xmlagg xmlattributes xmlbinary xmlcast xmlcomment xmlconcat xmldocument xmlelement xmlexists
    xmlforest xmliterate xmlnamespaces xmlparse xmlpi xmlquery xmlserialize xmltable xmltext xmlvalidate year zone
    """
)
"""Reserved, ODBC and future keywords of Transact-SQL.

https://learn.microsoft.com/sql/t-sql/language-elements/reserved-keywords-transact-sql"""
HIVE: Final = _words(
    """
    all alter and array as authorization between bigint binary boolean both by case cashe cast char column commit
    conf constraint create cross cube current current_date current_timestamp cursor database date dayofweek decimal
    delete describe distinct double drop else end exchange exists extended external extract false fetch float floor
    following for foreign from full function grant group grouping having if import in inner insert int integer
    intersect interval into is join lateral left less like local macro map more none not null numeric of on only or
    order out outer over partialscan partition percent preceding precision preserve primary procedure range reads
    reduce references regexp revoke right rlike rollback rollup row rows select set smallint start table tablesample
    then time timestamp to transform trigger true truncate unbounded union uniquejoin update user using
    utc_timestamp values varchar views when where window with
    """
)
"""Of Hive, as the Glue catalog and Athena read tables.

https://docs.aws.amazon.com/athena/latest/ug/reserved-words.html"""
REDSHIFT: Final = _words(
    """
    aes128 aes256 all allowoverwrite analyse analyze and any array as asc authorization az64 backup between binary
    blanksasnull both bytedict bzip2 case cast check collate column constraint create credentials cross current_date
    current_time current_timestamp current_user current_user_id default deferrable deflate defrag delta delta32k
    desc disable distinct do else emptyasnull enable encode encryption end except explicit false for foreign freeze
    from full globaldict256 globaldict64k grant group gzip having identity ignore ilike in initially inner intersect
    into is isnull join language leading left like limit localtime localtimestamp lun luns lzo lzop minus mostly16
    mostly32 mostly8 natural new not notnull null nulls off offline offset oid old on only open or order outer
    overlaps parallel partition percent permissions placing primary raw readratio recover references rejectlog
    resort respect restore right select session_user similar some sysdate system table tag tdes text255 text32k then
    to top trailing true truncatecolumns union unique user using uuid verbose wallet when where with without
    """
)
"""https://docs.aws.amazon.com/redshift/latest/dg/r_pg_keywords.html"""
DATABRICKS: Final = _words(
    """
    all alter and anti any array as at authorization between both by case cast check collate column commit
    constraint create cross cube current current_date current_time current_timestamp current_user delete describe
    distinct drop else end escape event_date except exists external extract false fetch filter for foreign from full
    function global grant group grouping having in inner insert intersect interval into is join lateral leading left
    like local minus natural no not null of on only or order out outer overlaps partition position primary range
    references revoke right rollback rollup row rows select semi session_user set some start table tablesample then
    time to trailing true truncate union unique unknown update user using values when where window with
    """
)
"""https://docs.databricks.com/sql/language-manual/sql-ref-reserved-words.html"""
BIGQUERY: Final = _words(
    """
    all and any array as asc assert_rows_modified at between by case cast collate contains create cross cube current
    default define desc distinct else end enum escape except exclude exists extract false fetch following for from
    full group grouping groups hash having if ignore in inner intersect interval into is join lateral left like
    limit lookup merge natural new no not null nulls of on or order outer over partition preceding proto range
    recursive respect right rollup rows select set some struct tablesample then to treat true unbounded union unnest
    using when where window with within
    """
)
"""https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical#reserved_keywords"""
BIGQUERY_PREFIXES: Final = (
    "_table_",
    "_file_",
    "_partition",
    "_row_timestamp",
    "__root__",
    "_colidentifier",
    "_change_sequence_number",
    "_change_type",
    "_change_timestamp",
)
"""https://docs.cloud.google.com/bigquery/docs/schemas#column_names: of columns, in lower case as our names are."""
POSTGRES: Final = _words(
    """
    all analyse analyze and any array as asc asymmetric authorization between binary both case cast check collate
    column constraint create cross current_date current_role current_time current_timestamp current_user default
    deferrable desc distinct do else end except false for foreign freeze from full grant group having ilike in
    initially inner intersect into is isnull join leading left like limit localtime localtimestamp natural new not
    notnull null off offset old on only or order outer overlaps placing primary references right select session_user
    similar some symmetric table then to trailing true union unique user using verbose when where
    """
)
"""https://www.postgresql.org/docs/current/sql-keywords-appendix.html"""
SNOWFLAKE: Final = _words(
    """
    account all alter and any as between by case cast check column connect connection constraint create cross
    current current_date current_time current_timestamp current_user database delete distinct drop else exists false
    following for from full grant group gscluster having ilike in increment inner insert intersect into is issue
    join lateral left like localtime localtimestamp minus natural not null of on or order organization qualify
    regexp revoke right rlike row rows sample schema select set some start table tablesample then to trigger true
    try_cast union unique update using values view when whenever where with
    """
)
"""https://docs.snowflake.com/sql-reference/reserved-keywords"""
NAMESPACES: Final = _words("information_schema pg_catalog pg_toast sys system default")
"""Schemas that are the engines' own."""
