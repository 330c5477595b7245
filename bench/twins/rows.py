"""The same end-points with FastAPI and SQLModel, as their documentation has it.

Plain ``def`` (the driver blocks, so FastAPI calls it in its threads), a session for each request, a pool for each
process, one INSERT for all rows of a batch, and an answer that is a ready ``Response``, which FastAPI does not validate
again. All or nothing, with native foreign keys; without rejects, history and roll-up. ``uvicorn bench.twins.rows:app``.
"""

from __future__ import annotations

import os
from datetime import datetime

from fastapi import Depends, FastAPI, HTTPException, Response
from sqlalchemy import DateTime, insert
from sqlmodel import Field, Session, SQLModel, create_engine

engine = create_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://", 1), pool_size=8, max_overflow=0
)
app = FastAPI()


class Employee(SQLModel, table=True):
    """A row."""

    __tablename__ = "employees"
    __table_args__ = {"schema": "twin"}  # SQLAlchemy's own form

    id: int = Field(primary_key=True)
    employee_name: str
    hired_date: datetime = Field(sa_type=DateTime(timezone=True))
    department_id: int
    job_id: int


class Given(SQLModel):
    """A row that a client sends: a model without a table, which SQLModel validates."""

    id: int
    employee_name: str = Field(min_length=1)
    hired_date: datetime
    department_id: int
    job_id: int


class Batch(SQLModel):
    """The body of a batch."""

    data: list[Given] = Field(min_length=1, max_length=1000)


def session() -> Session:
    """A session for one request."""
    with Session(engine) as made:
        yield made


@app.get("/api/employees/{key}")
def read(key: int, db: Session = Depends(session)) -> Response:  # noqa: B008  # FastAPI's own form
    """One row by its id."""
    found = db.get(Employee, key)
    if found is None:
        raise HTTPException(404)
    return Response(f'{{"data":{found.model_dump_json()}}}', media_type="application/json")


@app.post("/api/employees", status_code=201)
def add(batch: Batch, db: Session = Depends(session)) -> Response:  # noqa: B008  # FastAPI's own form
    """Add the listed rows, all or none."""
    db.execute(insert(Employee), [row.model_dump() for row in batch.data])
    db.commit()
    return Response(f'{{"inserted":{len(batch.data)}}}', 201, media_type="application/json")
