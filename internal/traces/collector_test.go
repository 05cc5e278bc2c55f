// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package traces_test

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"

	"chatrun.dev/operator/internal/traces"
	"chatrun.dev/operator/test/harness"
)

// TestCollectorThatHangs: nobody waits for it, neither who tells of a run nor, for
// longer than it says, who closes.
func TestCollectorThatHangs(t *testing.T) {
	c := harness.StartCollector(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	defer c.Close()
	told := to(t, traces.Collector{URL: c.URL, Ratio: 1})
	for range 5000 { // more than are ever kept
		told.Finished(hello(), done)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := told.Close(ctx); err == nil {
		t.Error("what was not taken is not told of")
	}
	c.CloseClientConnections()
}

// TestCollectorThatRefuses: for the moment, it is asked again; for good, once.
func TestCollectorThatRefuses(t *testing.T) {
	for _, tc := range []struct {
		name  string
		first int
		want  int
		err   string
	}{
		{"busy", http.StatusServiceUnavailable, 2, ""},
		{"too fast", http.StatusTooManyRequests, 2, ""},
		{"wrong key", http.StatusUnauthorized, 1, "the collector answers Unauthorized"},
		{"moved", http.StatusTemporaryRedirect, 1, "the collector answers Temporary Redirect"},
		{"wrong path", http.StatusNotFound, 1, "the collector answers Not Found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked := 0
			c := harness.StartCollector(func(w http.ResponseWriter, _ *http.Request) {
				if asked++; asked == 1 {
					w.Header().Set("Location", "/elsewhere")
					http.Error(w, "sk-secret is refused", tc.first)
				}
			})
			defer c.Close()
			faults := faults(t)
			told := to(t, traces.Collector{URL: c.URL, Ratio: 1})
			told.Finished(hello(), done)
			if err := told.Close(t.Context()); err != nil {
				t.Error(err)
			}
			requests, bodies := c.Requests()
			if len(requests) != tc.want || string(bodies[0]) != string(bodies[len(bodies)-1]) {
				t.Errorf("%d requests", len(requests))
			}
			got := strings.Join(*faults, "; ")
			if !strings.Contains(got, tc.err) || (tc.err == "") != (got == "") || strings.Contains(got, "sk-") {
				t.Errorf("told of %q", got)
			}
		})
	}
}

// TestCollectorsWords: not even the phrase of its status is repeated.
func TestCollectorsWords(t *testing.T) {
	c := harness.StartCollector(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 503 sk-secret is busy\r\nContent-Length: 0\r\n\r\n")
			_ = conn.Close()
		}
	})
	defer c.Close()
	faults := faults(t)
	told := to(t, traces.Collector{URL: c.URL, Ratio: 1})
	told.Finished(hello(), done)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_ = told.Close(ctx) // it is refused, and tells so
	if got := strings.Join(*faults, "; "); !strings.Contains(got, "Service Unavailable") || strings.Contains(got, "sk-secret") {
		t.Errorf("told of %q", got)
	}
}

// TestEnvironment: what says more of the sender counts; the sampler is the flag's.
func TestEnvironment(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=blue")
	t.Setenv("OTEL_SERVICE_NAME", "mine")
	t.Setenv("OTEL_TRACES_SAMPLER", "always_off")
	c := harness.StartCollector(nil)
	defer c.Close()
	told := to(t, traces.Collector{URL: c.URL, Ratio: 1})
	told.Finished(hello(), done)
	if err := told.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c.Resources(); !slices.Contains(got, "service.name=mine") || !slices.Contains(got, "k8s.cluster.name=blue") {
		t.Errorf("sent by %q", got)
	}
	if len(c.Spans()) != 1 {
		t.Error("the sampler is the environment's")
	}
}

// TestUnreachableCollector: the time for a batch is bounded, and the fault says why
// it was lost.
func TestUnreachableCollector(t *testing.T) {
	faults := faults(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		// Port 0 is nobody's: no connection is tried.
		told := to(t, traces.Collector{URL: "http://127.0.0.1:0", Ratio: 1})
		told.Finished(hello(), done)
		if err := told.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("tried for %v", took)
		}
	})
	if got := strings.Join(*faults, "; "); !strings.Contains(got, "the collector cannot be reached: the connection is refused") {
		t.Errorf("told of %q", got)
	}
}

// TestHeaders: those of the file are sent, as it stands before each request, and are
// in nobody's words.
func TestHeaders(t *testing.T) {
	c := harness.StartCollector(nil)
	defer c.Close()
	file := filepath.Join(t.TempDir(), "headers")
	write(t, file, "\nX-Key: sk-one\r\n\nAuthorization: Bearer two") // no line end
	told := to(t, traces.Collector{URL: c.URL + "/otlp/v1/traces", HeadersFile: file, Ratio: 1})
	told.Finished(hello(), done)
	if err := told.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	requests, _ := c.Requests()
	if h := requests[0].Header; h.Get("X-Key") != "sk-one" || h.Get("Authorization") != "Bearer two" ||
		h.Get("Content-Type") != "application/x-protobuf" || requests[0].URL.Path != "/otlp/v1/traces" {
		t.Errorf("%s %v", requests[0].URL, h)
	}
	told = to(t, traces.Collector{URL: c.URL, HeadersFile: file, Ratio: 1})
	write(t, file, "X-Key: sk-three\n")
	told.Finished(hello(), done)
	if err := told.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	requests, _ = c.Requests()
	if h := requests[1].Header; h.Get("X-Key") != "sk-three" || h.Get("Authorization") != "" || requests[1].URL.Path != "/v1/traces" {
		t.Errorf("%s %v", requests[1].URL, h)
	}
}

// TestOptions: what is wrong is said at once, without what may be a key.
func TestOptions(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "bad"), "sk-secret without a name\n")
	write(t, filepath.Join(dir, "spaced"), "X-Key: a\nBearer sk-secret: b\n")
	write(t, filepath.Join(dir, "long"), strings.Repeat("X-Key: sk-secret\n", 5000))
	for name, c := range map[string]traces.Collector{
		"no scheme":       {URL: "collector:4318"},
		"another scheme":  {URL: "grpc://collector:4317"},
		"no host":         {URL: "http://"},
		"a user":          {URL: "http://sk-secret@collector"},
		"a query":         {URL: "http://collector?key=sk-secret"},
		"no headers":      {URL: "http://collector", HeadersFile: filepath.Join(dir, "missing")},
		"bad headers":     {URL: "http://collector", HeadersFile: filepath.Join(dir, "bad")},
		"a bad name":      {URL: "http://collector", HeadersFile: filepath.Join(dir, "spaced")},
		"too long":        {URL: "http://collector", HeadersFile: filepath.Join(dir, "long")},
		"no authorities":  {URL: "http://collector", CAFile: filepath.Join(dir, "missing")},
		"bad authorities": {URL: "http://collector", CAFile: filepath.Join(dir, "bad")},
		"too few":         {URL: "http://collector", Ratio: -0.1},
		"too many":        {URL: "http://collector", Ratio: 1.1},
		"no number":       {URL: "http://collector", Ratio: math.NaN()},
	} {
		if _, err := traces.To(c, resource.Empty()); err == nil || strings.Contains(err.Error(), "sk-secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAuthorities: a collector is held against those that the file names.
func TestAuthorities(t *testing.T) {
	c := harness.StartCollector(nil)
	defer c.Close()
	secure := httptest.NewTLSServer(c.Config.Handler)
	defer secure.Close()
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	other, err := harness.NewAuthority("other")
	if err != nil {
		t.Fatal(err)
	}
	ours := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	told := faults(t)
	for want, authorities := range [][]byte{other.PEM, ours} {
		file := filepath.Join(t.TempDir(), "ca.crt")
		write(t, file, string(authorities))
		secured := to(t, traces.Collector{URL: secure.URL, CAFile: file, Ratio: 1})
		secured.Finished(hello(), done)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := secured.Close(ctx); (err == nil) != (want == 1) {
			t.Error(err)
		}
		cancel()
		if len(*told) != 1 || !strings.Contains((*told)[0], "its certificate is refused") {
			t.Errorf("told of %q", *told)
		}
		if got := len(c.Spans()); got != want {
			t.Errorf("%d spans, want %d", got, want)
		}
	}
}

func to(t *testing.T, c traces.Collector) *traces.Traces {
	t.Helper()
	told, err := traces.To(c, resource.NewSchemaless(attribute.String("service.name", "test")))
	if err != nil {
		t.Fatal(err)
	}
	return told
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// faults are what the library is told of from now on.
func faults(t *testing.T) *[]string {
	t.Helper()
	var all []string
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { all = append(all, err.Error()) }))
	t.Cleanup(func() { otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {})) })
	return &all
}
