// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
)

// TestAdmitList: the list is for those who may list the runs, and for nobody who may
// read one stream only, nor for the bearer of a ticket.
func TestAdmitList(t *testing.T) {
	server := newAPI()
	server.readers["jane team/"] = true
	w := newWorld(t, Options{Client: server})
	for _, tc := range []struct {
		name string
		q    request
		code int
		want string
	}{
		{"may", request{token: janeToken, namespace: "team"}, 200, ""},
		{"may read a stream", request{token: janeToken}, 403, `User \"jane\" cannot list resource \"chatruns\" in API group \"chatrun.dev\" in the namespace \"default\"`},
		{"may not", request{token: joeToken, namespace: "team"}, 403, "cannot list"},
		{"nobody", request{namespace: "team"}, 401, "Unauthorized"},
		{"a bad token", request{token: badToken, namespace: "team"}, 401, "Unauthorized"},
		{"a ticket", request{ticket: "x", namespace: "team"}, 401, "Unauthorized"},
	} {
		r, namespace, _ := tc.q.build(t, http.MethodGet)
		answer := httptest.NewRecorder()
		admitted := w.gate.AdmitList(answer, r, namespace)
		if admitted != (tc.code == 200) || answer.Code != tc.code || !strings.Contains(answer.Body.String(), tc.want) {
			t.Errorf("%s: admitted %v, %d %s", tc.name, admitted, answer.Code, answer.Body)
		}
		w.check(tc.q, answer)
	}
	server.set(func() {
		want := &authorizationv1.ResourceAttributes{Verb: "list", Group: "chatrun.dev", Version: "v1alpha1", Resource: "chatruns", Namespace: "team"}
		if !reflect.DeepEqual(server.asked.ResourceAttributes, want) {
			t.Errorf("asked %+v", server.asked.ResourceAttributes)
		}
	})
}
