// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector is one of OpenTelemetry's, as far as it takes spans.
type Collector struct {
	*httptest.Server

	mu       sync.Mutex
	respond  http.HandlerFunc
	requests []*http.Request
	bodies   [][]byte
	spans    []*tracepb.Span
	of       []string
}

// StartCollector starts one that takes all spans, or does what respond says if that
// writes an answer. Close ends it.
func StartCollector(respond http.HandlerFunc) *Collector {
	c := &Collector{respond: respond}
	c.Server = httptest.NewServer(http.HandlerFunc(c.take))
	return c
}

func (c *Collector) take(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	c.mu.Lock()
	c.requests, c.bodies = append(c.requests, r), append(c.bodies, body)
	c.mu.Unlock()
	if c.respond != nil {
		answered := &noted{ResponseWriter: w}
		if c.respond(answered, r); answered.code != 0 || r.Context().Err() != nil {
			return
		}
	}
	var data tracepb.TracesData
	if err := proto.Unmarshal(body, &data); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range data.GetResourceSpans() {
		for _, a := range resource.GetResource().GetAttributes() {
			c.of = append(c.of, a.GetKey()+"="+a.GetValue().GetStringValue())
		}
		for _, scope := range resource.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
}

// Spans are those that came, in their order.
func (c *Collector) Spans() []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Requests are those that came, with the bodies of all.
func (c *Collector) Requests() ([]*http.Request, [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests), slices.Clone(c.bodies)
}

// Resources are the attributes of what sent them, as NAME=VALUE.
func (c *Collector) Resources() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.of)
}

// SpanAttributes are those of a span; lists of strings are []string.
func SpanAttributes(span *tracepb.Span) map[string]any {
	all := map[string]any{}
	for _, a := range span.GetAttributes() {
		switch v := a.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			all[a.GetKey()] = v.StringValue
		case *commonpb.AnyValue_BoolValue:
			all[a.GetKey()] = v.BoolValue
		case *commonpb.AnyValue_IntValue:
			all[a.GetKey()] = v.IntValue
		case *commonpb.AnyValue_DoubleValue:
			all[a.GetKey()] = v.DoubleValue
		case *commonpb.AnyValue_ArrayValue:
			var list []string
			for _, item := range v.ArrayValue.GetValues() {
				list = append(list, item.GetStringValue())
			}
			all[a.GetKey()] = list
		}
	}
	return all
}
