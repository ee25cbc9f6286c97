-- Where latents fire: contexts, tokens, latents that fire together.
--
-- Questions that come up every day, as macros: they are stored in the file and answer in any
-- DuckDB shell. `run` is a run_id, the beginning of one, a name, '<name>@<site>' or 'latest'.
-- Parameters stand for columns of the same name wherever those are not qualified, so every
-- column here is.
--
-- DuckDB looks the names in a macro up in the current database, also where the macro is of another
-- attached one. So every macro says of which store it is: :store is put in when it is made, and
-- resolve_run(run) becomes resolve_run(run, store := :store).

-- True, or an error if this macro is of another store than the current one.
CREATE OR REPLACE MACRO of_store(store) AS (
    SELECT CASE WHEN count(*) FILTER (m.value = store) = 1 THEN true ELSE error(
            'this macro is of another attached store than the current one; '
            || 'make that one current with USE and its name, and ask again'
        ) END
    FROM meta AS m WHERE m.name = 'publication'
);

-- The run_id that `run` means: a run_id, the beginning of one, a name, '<name>@<site>', either of
-- them with '/<analysis>', or 'latest', which is never a run under the name of a control
-- ('<name>/controls/...'); an error if there is none, or more than one.
-- Example: SELECT resolve_run('latest')
CREATE OR REPLACE MACRO resolve_run(run) AS (
    SELECT CASE WHEN of_store(store) THEN coalesce(
        max(r.run_id) FILTER (r.run_id = run),
        arg_max(r.run_id, n.last_execution) FILTER (
            run = 'latest' AND NOT contains(n.name, '/controls/')
            OR run IN (n.name, n.name || '@' || r.site, n.name || '/' || n.analysis,
                n.name || '@' || r.site || '/' || n.analysis)
        ),
        CASE WHEN count(DISTINCT r.run_id) FILTER (starts_with(r.run_id, run)) = 1 AND run <> ''
            THEN max(r.run_id) FILTER (starts_with(r.run_id, run)) END,
        error(
            CASE WHEN count(DISTINCT r.run_id) FILTER (starts_with(r.run_id, run)) > 1
                THEN 'run ''' || run || ''' is the beginning of several run_ids; write more of it'
                ELSE 'no run is called ''' || run || '''; see SELECT run_id, name FROM names' END
        )
    ) END
    FROM runs AS r JOIN names AS n ON n.run_id = r.run_id
);

-- The group of each document of a run: documents of one group hold the same or nearly the same
-- text, or share a value of corpus.group_column, so they are drawn together, and count as one. The
-- smallest doc_id among them; without others a document is its own.
-- Example: FROM document_groups('latest') LIMIT 5
CREATE OR REPLACE MACRO document_groups(run) AS TABLE
    SELECT d.doc_id, coalesce(d.group_id, d.doc_id) AS group_id, d.split
    FROM documents AS d WHERE d.run_id = resolve_run(run);

-- A token between two marks, its leading spaces outside them.
CREATE OR REPLACE MACRO enclosed(token, opening, closing) AS
    CASE WHEN ltrim(token, ' ') = '' THEN opening || token || closing
        ELSE regexp_replace(token, '^( *)(.*)$', '\1' || opening || '\2' || closing, 's') END;

-- The token that a context is about between « and », others on which a latent fires between ‹ and
-- ›, leading spaces outside them.
CREATE OR REPLACE MACRO marked(token, peak, fires) AS
    CASE WHEN peak THEN enclosed(token, '«', '»')
        WHEN fires THEN enclosed(token, '‹', '›')
        ELSE token END;

-- How many candidates are looked at for n different contexts: one that is given away more often
-- than that leaves fewer.
CREATE OR REPLACE MACRO candidates(n) AS 2 * n + 20;

-- The tokens around the first n of `places` (a list of token_index, best first) whose texts differ:
-- `width` on each side, within the document (of split ones: the window). Of equal texts the first one has the rank.
-- Documents are found first: some dozens of them become a filter on row groups.
-- Example: FROM tokens_around('latest', [120, 4711], 5, 2)
CREATE OR REPLACE MACRO tokens_around(run, places, width, n) AS TABLE
    WITH wanted AS MATERIALIZED (
        SELECT unnest(places) AS token_index, generate_subscripts(places, 1) AS ordinal
    ),
    place AS MATERIALIZED (
        SELECT t.token_index, t.doc_id, t.position FROM tokens AS t
        WHERE t.run_id = resolve_run(run)
            AND t.token_index IN (SELECT w.token_index FROM wanted AS w)
    ),
    nearby AS (
        SELECT t.token_index, t.doc_id, t.position, t.token, t.special FROM tokens AS t
        WHERE t.run_id = resolve_run(run) AND t.doc_id IN (SELECT DISTINCT p.doc_id FROM place AS p)
    ),
    around AS MATERIALIZED (
        SELECT p.token_index AS place, near.*
        FROM place AS p
        JOIN nearby AS near ON near.doc_id = p.doc_id
            AND near.token_index - near.position = p.token_index - p.position
            AND near.token_index::BIGINT BETWEEN p.token_index::BIGINT - width
                AND p.token_index::BIGINT + width
    ),
    shown AS (
        SELECT a.place,
            string_agg(a.token, '' ORDER BY a.token_index) FILTER (NOT a.special) AS context
        FROM around AS a GROUP BY a.place
    ),
    ranked AS (
        SELECT d.place, row_number() OVER (ORDER BY d.ordinal) AS rank
        FROM (
            SELECT s.place, w.ordinal
            FROM shown AS s JOIN wanted AS w ON w.token_index = s.place
            QUALIFY row_number() OVER (PARTITION BY s.context ORDER BY w.ordinal) = 1
        ) AS d
    )
    SELECT r.rank, a.* FROM around AS a JOIN ranked AS r ON r.place = a.place
    WHERE r.rank <= n;

-- Token by token: the n strongest firings of a latent in different texts, with `width` tokens on
-- each side. activation is null where the latent is silent; `peak` marks the firing that the rank
-- is of.
-- Example: FROM context_tokens('latest', 7, n := 3)
CREATE OR REPLACE MACRO context_tokens(run, latent, n := 20, width := 10) AS TABLE
    WITH firing AS MATERIALIZED (
        SELECT l.token_index, l.activation FROM latents AS l
        WHERE l.run_id = resolve_run(run) AND l.latent = latent
    ),
    strongest AS MATERIALIZED (
        FROM firing AS f ORDER BY f.activation DESC, f.token_index LIMIT candidates(n)
    ),
    around AS MATERIALIZED (
        FROM tokens_around(run, (
            SELECT list(s.token_index ORDER BY s.activation DESC, s.token_index) FROM strongest AS s
        ), width, n)
    )
    SELECT c.rank, c.token_index, c.doc_id, c.position, c.token, c.special, f.activation,
        c.token_index = c.place AS peak
    FROM around AS c
    LEFT JOIN firing AS f ON f.token_index = c.token_index
    ORDER BY c.rank, c.token_index;

-- The n strongest contexts of a latent whose texts differ, firing tokens marked.
-- Example: FROM top_contexts('latest', 7, n := 5, width := 8)
CREATE OR REPLACE MACRO top_contexts(run, latent, n := 20, width := 10) AS TABLE
    SELECT c.rank, max(c.activation) FILTER (c.peak) AS activation,
        max(c.token) FILTER (c.peak) AS token,
        string_agg(marked(c.token, c.peak, c.activation IS NOT NULL), '' ORDER BY c.token_index)
            FILTER (NOT c.special) AS context,
        any_value(d.label) AS label, any_value(d.split) AS split, c.doc_id,
        max(c.position) FILTER (c.peak) AS position,
        max(c.token_index) FILTER (c.peak) AS token_index
    FROM context_tokens(run, latent, n := n, width := width) AS c
    LEFT JOIN documents AS d ON d.run_id = resolve_run(run) AND d.doc_id = c.doc_id
    GROUP BY c.rank, c.doc_id
    ORDER BY c.rank;

-- The tokens on which a latent fires most often; share: of the latent's firings.
-- Example: FROM top_tokens('latest', 7)
CREATE OR REPLACE MACRO top_tokens(run, latent, n := 10) AS TABLE
    SELECT t.token, count(*) AS n_fires, count(*) / sum(count(*)) OVER () AS share,
        avg(l.activation) AS mean_activation, max(l.activation) AS max_activation
    FROM latents AS l
    JOIN tokens AS t ON t.run_id = resolve_run(run) AND t.token_index = l.token_index
    WHERE l.run_id = resolve_run(run) AND l.latent = latent
    GROUP BY t.token
    ORDER BY n_fires DESC, t.token
    LIMIT n;

-- The n tokens in different texts on which latents a and b fire together most strongly (by the
-- product), marked; n_both counts all tokens on which they do.
-- Example: FROM co_firing('latest', 4, 5, n := 3)
CREATE OR REPLACE MACRO co_firing(run, a, b, n := 20, width := 10) AS TABLE
    WITH both_fire AS MATERIALIZED (
        SELECT x.token_index, x.activation AS activation_a, y.activation AS activation_b
        FROM latents AS x
        JOIN latents AS y ON y.token_index = x.token_index
        WHERE x.run_id = resolve_run(run) AND y.run_id = resolve_run(run)
            AND x.latent = a AND y.latent = b
    ),
    strongest AS MATERIALIZED (
        SELECT g.token_index, g.activation_a * g.activation_b AS product FROM both_fire AS g
        ORDER BY product DESC, g.token_index LIMIT candidates(n)
    )
    SELECT c.rank, max(f.activation_a) FILTER (c.token_index = c.place) AS activation_a,
        max(f.activation_b) FILTER (c.token_index = c.place) AS activation_b,
        max(c.token) FILTER (c.token_index = c.place) AS token,
        string_agg(
            marked(c.token, c.token_index = c.place, f.token_index IS NOT NULL), ''
            ORDER BY c.token_index
        ) FILTER (NOT c.special) AS context,
        any_value(c.doc_id) AS doc_id,
        max(c.position) FILTER (c.token_index = c.place) AS position,
        c.place AS token_index, (SELECT count(*) FROM both_fire) AS n_both
    FROM tokens_around(run, (
        SELECT list(s.token_index ORDER BY s.product DESC, s.token_index) FROM strongest AS s
    ), width, n) AS c
    LEFT JOIN both_fire AS f ON f.token_index = c.token_index
    GROUP BY c.rank, c.place
    ORDER BY c.rank;

-- The latents that fire together with a latent: on how many of its tokens, as a share of them,
-- Jaccard index, and lift over what chance would give.
-- Example: FROM fires_with('latest', 7, n := 5)
CREATE OR REPLACE MACRO fires_with(run, latent, n := 20) AS TABLE
    WITH own AS MATERIALIZED (
        SELECT l.token_index FROM latents AS l
        WHERE l.run_id = resolve_run(run) AND l.latent = latent
    ),
    counted AS (
        SELECT other.latent, count(*) AS n_both FROM latents_by_token AS other
        JOIN own AS o ON o.token_index = other.token_index
        WHERE other.run_id = resolve_run(run) AND other.latent <> latent
        GROUP BY other.latent
    ),
    total AS (
        SELECT max(f.n_fires / nullif(f.density, 0)) AS n_tokens,
            max(f.n_fires) FILTER (f.latent = latent) AS n_own
        FROM features AS f WHERE f.run_id = resolve_run(run)
    )
    SELECT c.latent, c.n_both, c.n_both / t.n_own AS share,
        c.n_both / (t.n_own + f.n_fires - c.n_both) AS jaccard,
        c.n_both * t.n_tokens / (t.n_own * f.n_fires) AS lift, f.n_fires, f.top_token
    FROM counted AS c
    JOIN features AS f ON f.run_id = resolve_run(run) AND f.latent = c.latent
    CROSS JOIN total AS t
    ORDER BY jaccard DESC, c.latent
    LIMIT n;
