//! What the application shows, and what it can be asked to do.

use std::io;
use std::sync::Arc;

use actix_web::dev::Server;
use actix_web::{App, HttpResponse, HttpServer, Responder, get, post, web};

use super::client::{Database, Outcome};
use super::counts::Counts;

/// The server, to be awaited.
pub fn serve(address: &str, counts: Arc<Counts>, database: Database) -> io::Result<Server> {
    let (counts, database) = (web::Data::from(counts), web::Data::new(database));
    let app = move || {
        let app = App::new().app_data(counts.clone()).app_data(database.clone());
        app.service(show).service(ask).service(abandon)
    };
    Ok(HttpServer::new(app).workers(1).disable_signals().bind(address)?.run())
}

#[get("/")]
async fn show(counts: web::Data<Counts>) -> impl Responder {
    HttpResponse::Ok().json(counts.show())
}

#[post("/ask")]
async fn ask(sql: String, database: web::Data<Database>) -> impl Responder {
    answer(database.ask(&sql).await)
}

#[post("/abandon")]
async fn abandon(sql: String, database: web::Data<Database>) -> impl Responder {
    answer(database.abandon(&sql).await.map(|()| String::new()))
}

fn answer(outcome: Outcome<String>) -> HttpResponse {
    match outcome {
        Ok(text) => HttpResponse::Ok().body(text),
        Err(error) => HttpResponse::BadGateway().body(error.to_string()),
    }
}
