// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// shut is a front door that is never opened.
func shut(t *testing.T, server *api) *FrontDoor {
	t.Helper()
	f := door(t, server)
	t.Cleanup(func() {
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := f.Start(over); err != nil { // ends what was made with it
			t.Error(err)
		}
	})
	return f
}

// beyond stands for what is behind the documents.
var beyond = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })

// TestDiscoveryByClients asks as kubectl does, new and old, and as the API
// server does where it is too old for the one document of all groups.
func TestDiscoveryByClients(t *testing.T) {
	server := newAPI()
	w := newWorld(t, Options{Client: server, FrontDoor: shut(t, server)})
	endpoint := httptest.NewServer(w.gate.Discovery(http.NotFoundHandler()))
	defer endpoint.Close()
	for name, legacy := range map[string]bool{"aggregated": false, "by version": true} {
		t.Run(name, func(t *testing.T) {
			client, err := discovery.NewDiscoveryClientForConfig(&rest.Config{Host: endpoint.URL, BearerToken: janeToken})
			if err != nil {
				t.Fatal(err)
			}
			client.UseLegacyDiscovery = legacy
			groups, resources, err := client.ServerGroupsAndResources()
			if err != nil || len(groups) != 1 || len(resources) != 1 {
				t.Fatalf("%d groups, %d lists, %v", len(groups), len(resources), err)
			}
			if groups[0].Name != streamGroup || groups[0].PreferredVersion.GroupVersion != "stream.chatrun.dev/v1alpha1" {
				t.Errorf("group %+v", groups[0])
			}
			if len(resources[0].APIResources) != 1 || resources[0].GroupVersion != "stream.chatrun.dev/v1alpha1" {
				t.Fatalf("resources %+v", resources[0])
			}
			log := resources[0].APIResources[0]
			if log.Name != "chatruns/log" || !log.Namespaced || !slices.Equal(log.Verbs, []string{"get"}) ||
				log.Group != "chatrun.dev" || log.Version != "v1alpha1" || log.Kind != "ChatRun" {
				t.Errorf("resource %+v", log)
			}
			// `kubectl get chatruns` is to mean the runs themselves.
			known, err := restmapper.GetAPIGroupResources(client)
			if err != nil {
				t.Fatal(err)
			}
			mapper := restmapper.NewDiscoveryRESTMapper(known)
			if kind, err := mapper.KindFor(schema.GroupVersionResource{Resource: "chatruns"}); err == nil {
				t.Errorf("chatruns are taken for %v", kind)
			}
		})
	}
}

func TestDiscoveryRequests(t *testing.T) {
	server := newAPI()
	w := newWorld(t, Options{Client: server, FrontDoor: shut(t, server)})
	handler := w.gate.Discovery(beyond)
	const group = "/apis/stream.chatrun.dev"
	for _, tc := range []struct {
		method, path, token string
		code                int
		kind                string
	}{
		{"GET", "/apis", janeToken, 200, `{"kind":"APIGroupList"`},
		{"GET", "/apis/", janeToken, 200, `{"kind":"APIGroupList"`},
		{"HEAD", "/apis", janeToken, 200, ""},
		{"GET", group, janeToken, 200, `{"kind":"APIGroup"`},
		{"GET", group + "/v1alpha1", joeToken, 200, `{"kind":"APIResourceList"`},
		{"GET", group + "/v1alpha1", "", 401, ""},
		{"GET", "/apis", badToken, 401, ""},
		{"POST", group, janeToken, 405, ""},
		{"GET", group + "/v1", janeToken, 418, ""},
		{"GET", group + "/v1alpha1/namespaces/default/chatruns/hello/log", "", 418, ""},
		{"GET", "/apis/apps", janeToken, 418, ""},
		{"GET", "/openapi/v3", janeToken, 200, `{"paths":{}}`},
		{"GET", "/openapi/v3", "", 401, ""},
		{"GET", "/openapi/v3/apis/stream.chatrun.dev/v1alpha1", janeToken, 418, ""},
		{"GET", "/openapi/v2", janeToken, 200, `{"info":{`},
		{"GET", "/openapi/v2", "", 401, ""},
		{"GET", "/v1/namespaces/default/chatruns/hello/stream", "", 418, ""},
	} {
		r, _, _ := request{token: tc.token}.build(t, tc.method)
		r.URL.Path = tc.path
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		if answer.Code != tc.code || !strings.HasPrefix(answer.Body.String(), tc.kind) {
			t.Errorf("%s %s: %d %s", tc.method, tc.path, answer.Code, answer.Body)
		}
		if tc.code == 401 || tc.code == 405 {
			status(t, answer)
		}
	}
	if _, access := server.reviews(); access != 0 {
		t.Errorf("%d reviews of rights for documents that say nothing", access)
	}
}

// TestDiscoveryForms: the one document of all groups is for those who know it.
func TestDiscoveryForms(t *testing.T) {
	server := newAPI()
	w := newWorld(t, Options{Client: server, FrontDoor: shut(t, server)})
	handler := w.gate.Discovery(beyond)
	const aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	for accept, want := range map[string]string{
		"":                                "application/json",
		"*/*":                             "application/json",
		"application/json":                "application/json",
		"application/json, " + aggregated: "application/json",
		aggregated:                        aggregated,
		aggregated + ",application/json":  aggregated,
		aggregated + ";profile=nopeer," + aggregated + ",application/json":                                              aggregated,
		"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json":                    "application/json",
		"application/vnd.kubernetes.protobuf," + aggregated:                                                             aggregated,
		"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList," + aggregated + ",application/json": aggregated,
		";;,=": "application/json",
	} {
		r, _, _ := request{token: janeToken, header: http.Header{"Accept": {accept}}}.build(t, http.MethodGet)
		r.URL.Path = "/apis"
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		if got := answer.Header().Get("Content-Type"); answer.Code != http.StatusOK || got != want {
			t.Errorf("Accept %q: %d %s", accept, answer.Code, got)
		}
		etag := answer.Header().Get("ETag")
		r, _, _ = request{token: janeToken, header: http.Header{"Accept": {accept}, "If-None-Match": {etag}}}.build(t, http.MethodGet)
		r.URL.Path = "/apis"
		answer = httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		if answer.Code != http.StatusNotModified || answer.Body.Len() != 0 {
			t.Errorf("Accept %q with the ETag: %d", accept, answer.Code)
		}
	}
}

// TestNoFrontDoor: nothing is below /apis then, for nobody.
func TestNoFrontDoor(t *testing.T) {
	w := newWorld(t, Options{Client: newAPI()})
	handler := w.gate.Discovery(beyond)
	for path, code := range map[string]int{
		"/apis": 404, "/apis/": 404, "/apis/stream.chatrun.dev/v1alpha1": 404,
		"/apis/stream.chatrun.dev/v1alpha1/namespaces/default/chatruns/hello/log": 404, "/apisx": 418, "/v1": 418,
	} {
		r, _, _ := request{token: janeToken}.build(t, http.MethodGet)
		r.URL.Path = path
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		if answer.Code != code {
			t.Errorf("%s: %d", path, answer.Code)
		}
		if code == http.StatusNotFound {
			status(t, answer)
		}
	}
}
