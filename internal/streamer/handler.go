// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"chatrun.dev/operator/api/stream"
)

// Defaults of a Handler's times.
const (
	// DefaultMinInterval is short for an eye, and long against the 9 µs of a
	// system call: most of what a reader costs is the number of writes.
	DefaultMinInterval = 20 * time.Millisecond
	// DefaultHeartbeat is below the idle limits of common proxies, 30 s and more.
	DefaultHeartbeat = 15 * time.Second
	// DefaultWriteTimeout is what a reader may take for one write, of 64 KiB at
	// most, into a socket that has a buffer of its own.
	DefaultWriteTimeout = 10 * time.Second
	// DefaultMaxReaders is some 500 MB of connections over HTTPS.
	DefaultMaxReaders = 10_000
	// DefaultMaxReadersPerRun leaves room for other runs while one is popular.
	DefaultMaxReadersPerRun = 5_000
)

// ErrNotFound says that there is no such run.
var ErrNotFound = errors.New("run not found")

// View is what is known of a run beside its log.
type View struct {
	Run    Run
	Status stream.Status
	// Retry is the one that is pending; nil if none is.
	Retry *stream.Retry
	// Finished says that the run is over; the fields below are set only then.
	Finished bool
	// Text is the whole answer, or what there is of it.
	Text  string
	Title string
	End   End
}

// Source answers for what no log knows: runs that are finished, waiting, or
// were begun by another process.
type Source interface {
	// Find returns the run that has this name at present, or ErrNotFound. Any
	// other error is answered with 503 and not shown: Find logs it itself.
	Find(ctx context.Context, namespace, name string) (View, error)
}

// Handler serves GET /v1/namespaces/{namespace}/chatruns/{name}/stream. Its
// times may be changed before it serves the first request.
//
// A stream ends after `done`, when the run is deleted, when the hub is closed,
// and with the context of its request, so with a server's BaseContext as well.
type Handler struct {
	// MinInterval is the least time between two writes to one reader, unless a
	// retry or the end is to be told; 0 writes every frame at once.
	MinInterval time.Duration
	// Heartbeat is the silence after which a comment is sent; above 0.
	Heartbeat time.Duration
	// WriteTimeout is how long one write may take. A reader that does not read
	// is cut then, and can resume; above 0.
	WriteTimeout time.Duration

	// MaxReaders and MaxReadersPerRun bound the readers that are served, or wait
	// for a run, at one time. Further ones are answered with 429. 0 is no bound.
	MaxReaders, MaxReadersPerRun int

	hub    *Hub
	source Source
	guard  Guard
	mux    *http.ServeMux
}

// NewHandler returns a handler with the default times and bounds.
func NewHandler(hub *Hub, source Source, guard Guard) *Handler {
	h := &Handler{
		MinInterval: DefaultMinInterval, Heartbeat: DefaultHeartbeat, WriteTimeout: DefaultWriteTimeout,
		MaxReaders: DefaultMaxReaders, MaxReadersPerRun: DefaultMaxReadersPerRun,
		hub: hub, source: source, guard: guard, mux: http.NewServeMux(),
	}
	h.mux.HandleFunc("/v1/namespaces/{namespace}/chatruns/{name}/stream", h.serveStream)
	h.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "NotFound", "no such path; streams are at /v1/namespaces/{namespace}/chatruns/{name}/stream")
	})
	return h
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// replacements is how often a run may be deleted and created again between two
// looks at it before the request is refused.
const replacements = 3

// serveStream finds out who answers: the log of the run, or its view.
func (h *Handler) serveStream(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "a stream can be read only: use GET")
		return
	}
	if !isLabel(r.PathValue("namespace")) || !isSubdomain(r.PathValue("name")) {
		refuse(w, http.StatusBadRequest, "BadRequest", "the namespace or the name is not one that an object can have")
		return
	}
	v, ok := h.find(w, r)
	if !ok {
		return
	}
	last := r.Header.Get("Last-Event-ID")
	if last == endID(v.Run.UID) {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if r.Method == http.MethodHead {
		writeHeader(w)
		return
	}
	for range replacements {
		if v.Finished {
			h.answer(w, r, v, last)
			return
		}
		if v, ok = h.follow(w, r, v, last); !ok {
			return
		}
	}
	refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "the run is being replaced; try again")
}

// follow registers at the run's log, and then reads the view that the stream
// begins with, so that nothing can happen between the two. It returns true,
// and has written nothing, if that is a view of a finished or of another run.
func (h *Handler) follow(w http.ResponseWriter, r *http.Request, v View, last string) (View, bool) {
	l := h.hub.join(v.Run)
	if l == nil {
		refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "the server is shutting down; try again")
		return View{}, false
	}
	defer h.hub.leave(l)
	now, ok := h.find(w, r)
	if !ok {
		return View{}, false
	}
	if now.Finished || now.Run.UID != v.Run.UID {
		return now, true
	}
	h.live(w, r, &reader{log: l}, now, last)
	return View{}, false
}

// find asks the source, and refuses the request if it has no answer.
func (h *Handler) find(w http.ResponseWriter, r *http.Request) (View, bool) {
	v, err := h.source.Find(r.Context(), r.PathValue("namespace"), r.PathValue("name"))
	switch {
	case err == nil:
		return v, true
	case errors.Is(err, ErrNotFound):
		refuse(w, http.StatusNotFound, "NotFound", "chatruns.chatrun.dev \""+r.PathValue("name")+"\" not found")
	default:
		refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "the run could not be looked up; try again")
	}
	return View{}, false
}

func writeHeader(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	// Proxies that hold answers back to fill a buffer know this one.
	header.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
}

// refuse answers with the object that kubectl and client libraries understand.
func refuse(w http.ResponseWriter, code int, reason, message string) {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	// A reader that is gone already needs no answer.
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": "v1", "kind": "Status", "metadata": struct{}{},
		"status": "Failure", "code": code, "reason": reason, "message": message,
	})
}

// The bounds of names in Kubernetes.
const (
	maxLabel     = 63
	maxSubdomain = 253
)

// isLabel reports whether s can name a namespace.
func isLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return isNameBytes(s)
}

// isSubdomain reports whether s can name an object.
func isSubdomain(s string) bool {
	if len(s) > maxSubdomain {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' || !isNameBytes(part) {
			return false
		}
	}
	return true
}

func isNameBytes(s string) bool {
	for _, c := range []byte(s) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
