// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"

	"chatrun.dev/operator/api/stream"
)

const (
	// defaultList and maxList are how many runs a page of the list has: a screen or
	// two, and some 150 KB.
	defaultList, maxList = 100, 500
	// maxLists bounds the lists that are answered at one time. One takes a
	// millisecond as a rule, and seconds if the API server is slow.
	maxLists = 64
)

// Lister lists runs.
type Lister interface {
	// Runs returns the runs of a namespace in the order of Newest. They are not to be
	// changed. truncated says that there are more than are looked at. The error is
	// ErrNotWatched, or one that is answered with 503 and not shown: Runs logs it
	// itself.
	Runs(ctx context.Context, namespace string) (runs []stream.Summary, truncated bool, err error)
}

// Newest compares two runs of a namespace: the newest first, by name if they are of
// the same time. So a page goes on where the last one ended, whatever was created
// or deleted meanwhile.
func Newest(a, b stream.Summary) int {
	return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(a.Name, b.Name))
}

// list serves the runs of a namespace. Its ETag makes it cheap to ask again.
func (h *Handler) list(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "this path allows GET, HEAD")
		return
	}
	namespace := r.PathValue("namespace")
	if !isLabel(namespace) {
		refuse(w, http.StatusBadRequest, "BadRequest", "the namespace is not one that there can be")
		return
	}
	if h.Lister == nil {
		refuse(w, http.StatusNotFound, "NotFound", "this manager lists no runs")
		return
	}
	if !h.guard.AdmitList(w, r, namespace) {
		return
	}
	limit, after, err := parseList(r.URL.Query())
	if err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	}
	select {
	case h.lists <- struct{}{}:
		defer func() { <-h.lists }()
	default:
		w.Header().Set("Retry-After", retryAfter)
		refuse(w, http.StatusTooManyRequests, "TooManyRequests", "too many lists are being made: try again later")
		return
	}
	runs, truncated, err := h.Lister.Runs(r.Context(), namespace)
	switch {
	case errors.Is(err, ErrNotWatched):
		h.found(w, name{namespace: namespace}, nil, err)
	case err != nil:
		unavailable(w, "the runs could not be listed: try again")
	default:
		page := pageOf(runs, limit, after)
		page.Namespace, page.Truncated = namespace, truncated
		writeList(w, r, page)
	}
}

// parseList reads how many runs are wanted, and after which one; its zero value
// is before all.
func parseList(query url.Values) (limit int, after stream.Summary, err error) {
	limit = defaultList
	if asked := query.Get("limit"); asked != "" {
		if limit, err = strconv.Atoi(asked); err != nil || limit < 1 {
			return 0, after, errors.New("limit is to be a number above 0")
		}
	}
	if place := query.Get("continue"); place != "" {
		created, run, _ := strings.Cut(place, "/")
		if after.CreatedAt, err = time.Parse(time.RFC3339Nano, created); err != nil || !isSubdomain(run) {
			return 0, after, errors.New("continue is to be what the page before said")
		}
		after.Name = run
	}
	return min(limit, maxList), after, nil
}

// pageOf cuts a page out of all runs.
func pageOf(runs []stream.Summary, limit int, after stream.Summary) stream.RunList {
	if after.Name != "" {
		runs = runs[sort.Search(len(runs), func(i int) bool { return Newest(runs[i], after) > 0 }):]
	}
	page := stream.RunList{Runs: runs[:min(limit, len(runs))]}
	if page.Runs == nil {
		page.Runs = []stream.Summary{} // a list, also to JSON
	}
	if len(runs) > limit {
		last := page.Runs[limit-1]
		page.Continue = last.CreatedAt.UTC().Format(time.RFC3339Nano) + "/" + last.Name
	}
	return page
}

// writeList answers with a page, or says that it is the one that the caller has.
func writeList(w http.ResponseWriter, r *http.Request, page stream.RunList) {
	body, err := json.Marshal(page)
	if err != nil {
		unavailable(w, "the list could not be written: try again")
		return
	}
	sum := sha256.Sum256(body)
	etag := `"` + hex.EncodeToString(sum[:16]) + `"`
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-cache, private")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Vary", "Authorization")
	header.Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	// A reader that is gone already needs no answer.
	_, _ = w.Write(body)
}
